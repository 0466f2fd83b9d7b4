"""The tables of a paper, one command each (`evaluate.py compare --table NAME`): made of run folders alone."""
