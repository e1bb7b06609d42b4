"""What a run says in the terminal: few lines, none of them twice, none that its user can do nothing about."""
