"""Many pictures, a row of a table each: found, decoded, answered, kept, written. Uses compare and what is below."""
