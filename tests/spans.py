"""The text of a span of a conversation."""


def ids_of(encoded):
    return (*encoded.prompt.ids, *encoded.response)


def said(chat, encoded, span):
    return chat.tokenizer.decode(ids_of(encoded)[span.start : span.stop]).strip()
