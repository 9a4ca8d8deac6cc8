"""The ground floor: tools that every room uses and that know nothing of the rooms above."""
