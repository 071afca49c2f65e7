"""Settings, addresses and processes of the site: the only package that knows every app."""
