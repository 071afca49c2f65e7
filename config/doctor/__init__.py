"""What `manage.py doctor` looks at: everything a site stands on, each as one line that says what to do about it."""
