"""What pages are made of: tables, marks, dialogs, charts."""
