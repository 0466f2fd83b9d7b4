"""The way from a folder of a GM data set to a plan of splits: discover, look at each file once, check, split, audit."""
