"""Tools that measure the site: a provider that does as its model's name says, and a client that loads and times."""
