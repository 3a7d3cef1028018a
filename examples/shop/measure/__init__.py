"""What `demo.py` is made of: the shop with meters on, a server to run it, a load to send, a table to print."""
