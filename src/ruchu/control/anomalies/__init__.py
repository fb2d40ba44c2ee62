"""Does the data of a machine change as it usually does, or as if it was being encrypted."""
