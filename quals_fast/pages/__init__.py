"""What people look at: explanations, tables, the terminal."""
