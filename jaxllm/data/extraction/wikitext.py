def wikitext_to_text(markup):
    return markup
