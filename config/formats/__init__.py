"""How numbers and dates are written, where Django has two ways, or one that is hard to read. The rest is Django's."""
