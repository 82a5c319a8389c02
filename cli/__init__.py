"""The command line `memit`: client commands and the embedded supervisor."""
