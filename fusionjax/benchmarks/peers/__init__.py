"""Other frameworks as contenders, one file each, written as a user of theirs would. Only workers import them."""
