"""Between LangChain and the rest: messages, arguments, results, and inner models as channels."""
