"""The generators and images shipped with this project, and the GM data sets made from them."""
