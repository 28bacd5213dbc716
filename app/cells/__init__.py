"""The cells of a lesson, one file per kind; each has `render(cell, context)`. `page.render(lesson)` draws a lesson."""
