"""The databases: each module lists its units (a class or function) and makes the cases of one of them."""
