"""What revision 0001 made. Frozen: the tables of today are elsewhere."""
