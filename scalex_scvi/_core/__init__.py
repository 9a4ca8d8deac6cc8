"""Tools that all other subpackages use. They import nothing of these."""
