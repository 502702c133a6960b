"""What a region says: rows, tables, pictures. It knows nothing of the engine."""
