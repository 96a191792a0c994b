"""The web page: a picture and words in a browser, the same systems behind it. Needs the extra `[web]` (Gradio)."""
