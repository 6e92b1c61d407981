"""HTML, figures and tables; no statistics."""
