"""The command `convert`: weights of any code base that this project reads, in the format that is asked for, with a passport."""
