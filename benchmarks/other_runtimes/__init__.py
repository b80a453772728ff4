"""Do runtimes that know nothing of steering say what the steered checkpoint says?"""
