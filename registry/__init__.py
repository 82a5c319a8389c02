"""What is durably true: facts, edits, versions, aliases and blobs, in a folder."""
