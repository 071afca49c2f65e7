# As browsers write numbers, too: Django would have a space.
THOUSAND_SEPARATOR = "."
