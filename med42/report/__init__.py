"""Pages for people: self-contained HTML with tables and plots, nothing fetched from elsewhere."""
