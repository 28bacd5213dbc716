"""The browser app. Only this package imports streamlit."""
