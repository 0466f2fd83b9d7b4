"""What all packages may import, and what imports none of them: files, state dicts, shipped files, suggestions."""
