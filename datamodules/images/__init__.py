"""Image files: finding, checking, decoding, and the list of problems; shared by all data modules."""
