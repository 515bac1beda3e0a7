"""Our Jinja engine against jinja2 as transformers configures it: real templates over generated conversations, and
snippets over every filter, test, method and operator. Equal bytes, and an error exactly where jinja2 has one."""
import glob
import json
import math
import os
import random
import subprocess
import sys
import time

from transformers.utils.chat_template_utils import _compile_jinja_template

from chat_template_snippets import SNIPPETS, VARIABLES

BUILD = os.environ.get("QLORA_BUILD", "build/cpu")
DATA = os.environ.get("QLORA_TEST_DATA", os.path.expanduser("~/.cache/qlora/test-data"))
PROBE = os.environ.get("QLORA_PROBE_RENDER", os.path.join(BUILD, "tests", "probe_render_template"))
CONVERSATIONS = int(os.environ.get("QLORA_CONVERSATIONS", "240"))

TEXTS = [
    "Hello", "", " ", "  padded \n", "How many singers are there?", "SELECT count(*) FROM singer;\n", "\n\nline\n\n",
    "naïve café Ünïcödé", "日本語のテキスト", "emoji 😀👩‍👩‍👧 ok", "quotes ' and \" and \\ back", "<b>&amp;</b>", "{{ not jinja }} {% if %}",
    "</think> answer", "<think>why</think>\n\nbecause", "tab\tand\u00a0nbsp\u2028sep", "a</tool_call>b", "x" * 300, "İstanbul ß Σας",
]
TOOLS = [
    {"type": "function", "function": {"name": "get_weather", "description": "Weather of a place", "parameters": {
        "type": "object", "properties": {"place": {"type": "string", "description": "A città"}, "days": {"type": "integer", "description": "how many"}},
        "required": ["place"]}}},
    {"type": "function", "function": {"name": "search", "description": "Finds <things> & \"more\"", "parameters": {
        "type": "object", "properties": {"q": {"type": ["string", "null"], "description": "query"}, "tags": {"type": "array", "items": {"type": "string"}, "description": "t"},
                                         "deep": {"type": "object", "additionalProperties": {"type": "number"}, "description": "o"}},
        "required": []}, "return": {"type": "string", "description": "r"}}},
    {"name": "bare", "description": "no wrapper", "parameter_definitions": {"x": {"type": "int", "description": "an x", "required": True}}},
    {"type": "function", "function": {"name": "none", "description": None, "parameters": {"type": "object", "properties": {}}}},
]

PLAIN_TOOL = {"name": "lookup", "description": "Looks up", "parameter_definitions": {"key": {"type": "str", "description": "the key", "required": True},
              "n": {"type": "int", "description": "how many", "required": False}},
              "function": {"name": "lookup", "description": "Looks up", "parameters": {"type": "object", "properties": {"key": {"type": "string", "description": "k"}},
                           "required": ["key"]}}}


def message(rng, role):
    row = {"role": role, "content": rng.choice(TEXTS)}
    kind = rng.random()
    if kind < 0.04:
        row["content"] = None
    elif kind < 0.06:
        del row["content"]
    elif kind < 0.10:
        row["content"] = [{"type": "text", "text": rng.choice(TEXTS)} for _ in range(rng.randrange(0, 3))]
    elif kind < 0.11:
        row["content"] = {"content": rng.choice(TEXTS)}
    elif kind < 0.12:
        row["content"] = rng.choice([3, 2.5, True])
    elif kind < 0.13:
        del row["role"]
    if role == "assistant" and rng.random() < 0.25:
        row["tool_calls"] = [tool_call(rng) for _ in range(rng.randrange(0, 3))]
        if rng.random() < 0.1:
            row["tool_calls"] = None
    if role == "assistant" and rng.random() < 0.15:
        row["reasoning_content"] = rng.choice(TEXTS)
    if role == "tool":
        if rng.random() < 0.8:
            row[rng.choice(["tool_call_id", "tool_call_id", "call_id"])] = rng.choice(["abcdefghi", "123456789", "short"])
        if rng.random() < 0.5:
            row["name"] = "get_weather"
    if rng.random() < 0.05:
        row["extra"] = {"nested": [1, 2.5, None, True, "é"]}
    return row


def tool_call(rng):
    arguments = rng.choice([{"place": "Zürich", "days": 3}, {"q": None, "tags": ["a", "b"]}, {}, '{"place": "x"}', "", {"x": 1.5e-7, "y": 1e20}])
    call = {"type": "function", "function": {"name": rng.choice(["get_weather", "search"]), "arguments": arguments}}
    if rng.random() < 0.2:
        call = dict(call["function"])
    if rng.random() < 0.8:
        call["id"] = rng.choice(["abcdefghi", "123456789", "tooshort"])
    return call


def orderly_conversation(rng):
    """What templates are written for: roles that alternate, whole tool calls, plain contents."""
    messages = [{"role": "system", "content": rng.choice(TEXTS)}] if rng.random() < 0.4 else []
    tools = rng.choice([None, [], TOOLS[:1], [PLAIN_TOOL], [TOOLS[0], PLAIN_TOOL]])
    for turn in range(rng.randrange(1, 5)):
        messages.append({"role": "user", "content": rng.choice(TEXTS)})
        if tools and rng.random() < 0.4:
            call = {"id": "abcdefghi", "type": "function", "function": {"name": "get_weather", "arguments": {"place": rng.choice(TEXTS), "days": turn}}}
            messages.append({"role": "assistant", "content": rng.choice(["", "Let me see.", None]), "tool_calls": [call]})
            messages.append({"role": "tool", "name": "get_weather", "tool_call_id": "abcdefghi", "content": rng.choice(TEXTS)})
        messages.append({"role": "assistant", "content": rng.choice(TEXTS)})
    if rng.random() < 0.5:
        messages.pop()
    variables = {"messages": messages, "add_generation_prompt": rng.random() < 0.5, "bos_token": "<s>", "eos_token": "</s>"}
    if tools is not None or rng.random() < 0.5:
        variables["tools"] = tools
    return variables


def conversation(rng):
    if rng.random() < 0.5:
        return orderly_conversation(rng)
    messages = []
    if rng.random() < 0.5:
        messages.append(message(rng, "system"))
    style = rng.random()
    if style < 0.65:
        for _ in range(rng.randrange(1, 5)):
            messages.append(message(rng, "user"))
            messages.append(message(rng, "assistant"))
            if messages[-1].get("tool_calls"):
                for _ in messages[-1]["tool_calls"]:
                    messages.append(message(rng, "tool"))
                messages.append(message(rng, "assistant"))
        if rng.random() < 0.5:
            messages.pop()
    else:
        roles = ["user", "assistant", "system", "tool", "ipython", "tool_results", "strange"]
        messages += [message(rng, rng.choice(roles)) for _ in range(rng.randrange(0, 6))]
    variables = {"messages": messages, "add_generation_prompt": rng.random() < 0.5}
    variables["tools"] = rng.sample(TOOLS, rng.randrange(1, 4)) if rng.random() < 0.35 else None
    variables["documents"] = [{"title": "Doc ö", "text": "Text"}, {"title": "2", "text": ""}] if rng.random() < 0.2 else None
    if rng.random() < 0.9:
        variables["bos_token"] = "<s>"
        variables["eos_token"] = "</s>"
    for name, values in {"enable_thinking": [True, False], "date_string": ["01 Jan 2025"], "tools_in_user_message": [True, False],
                         "custom_tools": [[TOOLS[0]]], "builtin_tools": [["brave_search", "code_interpreter"], []]}.items():
        if rng.random() < 0.15:
            variables[name] = rng.choice(values)
    return variables


def builtin_template(name):
    return subprocess.run([PROBE, "--builtin", name], capture_output=True, text=True, encoding="utf-8", check=True).stdout


def compare_chatml_with(source):
    """Qwen's form of tools, calls and results; without a system message Qwen adds one of its own."""
    rng, chatml = random.Random(3), builtin_template("chatml")
    conversations = [c for c in (orderly_conversation(rng) for _ in range(CONVERSATIONS)) if c["messages"][0]["role"] == "system"]
    called = sum(1 for c in conversations if c.get("tools") and any("tool_calls" in m for m in c["messages"]))
    differences = 0
    for variables in conversations:
        ours, theirs = reference(chatml, variables), reference(source, variables)
        if ours != theirs or theirs[1]:
            differences += 1
            print(f"DIFFERENT chatml: {json.dumps(variables)[:600]}\n  built-in {ours}\n  Qwen     {theirs}")
    print(f"chatml as Qwen2.5: {len(conversations)} renderings, {called} with calls, {differences} different")
    return differences + (called == 0)


def templates():
    found = {f"built-in {name}": builtin_template(name) for name in ("chatml", "llama3", "alpaca")}
    for path in sorted(glob.glob(os.path.join(DATA, "chat_templates", "*.jinja"))):
        with open(path, encoding="utf-8", newline="") as file:
            found[os.path.basename(path)] = file.read()
    for path in sorted(glob.glob(os.path.join(DATA, "tokenizers", "*", "tokenizer_config.json"))):
        with open(path, encoding="utf-8") as file:
            source = json.load(file).get("chat_template")
        if isinstance(source, str):
            found[os.path.basename(os.path.dirname(path)) + "/tokenizer_config.json"] = source
    return found


def reference(source, variables):
    try:
        return _compile_jinja_template(source).render(**variables), None
    except Exception as error:  # whatever jinja2 or Python raises
        return None, f"{type(error).__name__}: {error}"


def ask(requests, *options):
    text = "".join(json.dumps(request) + "\n" for request in requests)
    result = subprocess.run([PROBE, *options], input=text, capture_output=True, text=True, encoding="utf-8", check=True)
    return [json.loads(line) for line in result.stdout.split("\n") if line]


def compare(name, requests):
    differences = errors = 0
    for request, reply in zip(requests, ask(requests), strict=True):
        text, error = reference(request["template"], request["variables"])
        errors += error is not None
        same = reply.get("text") == text and ("error" in reply) == (error is not None)
        if error and error.startswith("TemplateError: ") and error[len("TemplateError: "):] not in reply.get("error", ""):
            same = False
        if same:
            continue
        differences += 1
        if differences <= 3:
            print(f"DIFFERENT {name}: {request['template'][:200]!r}\n  variables {json.dumps(request['variables'])[:600]}\n"
                  f"  jinja2 {text!r} {error}\n  ours   {reply.get('text')!r} {reply.get('error')}")
    print(f"{name}: {len(requests)} renderings, {errors} of them errors in both, {differences} different")
    return differences


def best_seconds(compiled, variables):
    best = 1e9
    for _ in range(10):
        start = time.perf_counter()
        for _ in range(5):
            compiled.render(**variables)
        best = min(best, (time.perf_counter() - start) / 5)
    return best


def speed(sources):
    rng = random.Random(7)
    ratios = []
    for name, source in sources.items():
        usable = [v for v in (conversation(rng) for _ in range(300)) if len(v["messages"]) > 3 and reference(source, v)[1] is None][:10]
        if not usable:
            continue
        ours = sum(reply["seconds"] for reply in ask([{"template": source, "variables": v} for v in usable], "--time", "20"))
        compiled = _compile_jinja_template(source)
        theirs = sum(best_seconds(compiled, variables) for variables in usable)
        ratios.append(theirs / ours)
        print(f"speed {name}: jinja2 {theirs / len(usable) * 1e6:.1f} us, ours {ours / len(usable) * 1e6:.2f} us, {theirs / ours:.1f}x")
    print(f"speed: geometric mean {math.prod(ratios) ** (1 / len(ratios)):.1f}x of jinja2")


def main():
    different = compare("snippets", [{"template": source, "variables": VARIABLES} for source in SNIPPETS])
    sources = templates()
    qwen = sources.get("Qwen-Qwen2.5-7B-Instruct.jinja")
    if qwen:
        different += compare_chatml_with(qwen)
    else:
        print(f"SKIPPED the real templates: none in {DATA}", file=sys.stderr)
    for name, source in sources.items():
        rng = random.Random(name)
        different += compare(name, [{"template": source, "variables": conversation(rng)} for _ in range(CONVERSATIONS)])
    speed(sources)
    return 1 if different else 0 if qwen else 77


if __name__ == "__main__":
    sys.exit(main())
