"""One module per group of commands; each command reads its arguments, calls one function, prints its result."""
