"""Networks of the small generators, one file each; `zoo/` trains them."""
