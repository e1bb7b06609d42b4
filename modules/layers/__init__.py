"""Parts shared by two or more methods."""
