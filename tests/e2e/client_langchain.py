"""LangChain's wrappers of OpenAI and Ollama against cabe. usage: client_langchain.py URL CHAT_MODEL EMBEDDING_MODEL"""
from checks import CHAT, EMBED, URL, check, end
from langchain_ollama import ChatOllama, OllamaEmbeddings, OllamaLLM
from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings

OPENAI = {"base_url": URL + "/v1", "api_key": "none", "model": CHAT, "temperature": 0, "max_tokens": 10, "max_retries": 0}
OLLAMA = {"base_url": URL, "model": CHAT, "temperature": 0, "num_predict": 10}


def content(message):
    text = message.content
    return text if isinstance(text, str) else "".join(part.get("text", "") for part in text)


answers = {}
for name, chat in (("openai", ChatOpenAI(**OPENAI)), ("responses", ChatOpenAI(**OPENAI, use_responses_api=True)),
                   ("ollama", ChatOllama(**OLLAMA))):
    whole = chat.invoke("Say hello")
    answers[name] = content(whole)
    check(whole.usage_metadata["output_tokens"] <= 10, name, whole.usage_metadata)
    check("".join(content(piece) for piece in chat.stream("Say hello")) == answers[name], name, "streamed")
    check(len(chat.batch(["a", "b", "c"])) == 3, name, "batch")
    check(content(chat.invoke([("system", "Be brief."), ("human", "Hi"), ("ai", "Hello"), ("human", "Bye")])) is not None)
check(len(set(answers.values())) == 1, "three ways, three answers", answers)

text = OpenAI(**OPENAI)
check(len(text.batch(["Once", "The"])) == 2)
check("".join(text.stream("Once")) == text.invoke("Once"))
check("".join(OllamaLLM(**OLLAMA).stream("Once")) == OllamaLLM(**OLLAMA).invoke("Once"))

# LangChain would send OpenAI's token ids, which mean nothing here, unless told not to
embed = OpenAIEmbeddings(base_url=URL + "/v1", api_key="none", model=EMBED, check_embedding_ctx_length=False)
rows = embed.embed_documents(["hello", "world"])
other = OllamaEmbeddings(base_url=URL, model=EMBED).embed_documents(["hello", "world"])
check(max(abs(a - b) for a, b in zip(rows[1], other[1])) < 1e-6, "two ways, two rows")
end("langchain")
