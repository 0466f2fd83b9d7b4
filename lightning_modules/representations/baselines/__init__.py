"""What methods that ManiFPT is compared with (Sec. 4, Table 2) compute of an image, one file each.

The methods themselves are configs: a representation, and a rule or network (``configs/attribution/baselines/``).
"""
