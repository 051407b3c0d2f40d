"""What serves the page: one process, one port, nothing from outside, and no file of this machine but the page's own."""
