"""The stub says what the native module is: names, signatures, defaults and texts."""

import ast
import inspect
from pathlib import Path

import tezkor
from tezkor import _native

STUB = ast.parse((Path(tezkor.__file__).parent / "_native.pyi").read_text(encoding="utf-8"))


def members(body):
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.name, node
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id, node


def public(names):
    return {name for name in names if not name.startswith("_")}


def parameters(function):
    """Name, kind and default of each, as text; without the receiver."""
    arguments = function.args
    plain = arguments.posonlyargs + arguments.args
    defaults = [None] * (len(plain) - len(arguments.defaults)) + arguments.defaults
    read = [
        (
            argument.arg,
            "positional" if index < len(arguments.posonlyargs) else "plain",
            default and ast.unparse(default),
        )
        for index, (argument, default) in enumerate(zip(plain, defaults, strict=True))
    ]
    for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        read.append((argument.arg, "keyword", default and ast.unparse(default)))
    return [part for part in read if part[0] not in ("self", "cls")]


KINDS = {
    inspect.Parameter.POSITIONAL_ONLY: "positional",
    inspect.Parameter.POSITIONAL_OR_KEYWORD: "plain",
    inspect.Parameter.KEYWORD_ONLY: "keyword",
}


def real_parameters(function):
    return [
        (
            name,
            KINDS[part.kind],
            None if part.default is part.empty else "..." if part.default is ... else repr(part.default),
        )
        for name, part in inspect.signature(function).parameters.items()
        if name != "self"
    ]


def check(stub, real):
    assert parameters(stub) == real_parameters(real), stub.name
    text = ast.get_docstring(stub)
    if text is not None:
        assert text == inspect.getdoc(real), stub.name


def test_the_stub_names_what_the_module_has():
    named = dict(members(STUB.body))
    assert public(named) == public(dir(_native))
    assert "__version__" in named
    assert isinstance(_native.__version__, str)
    assert public(dict(members(named["Cache"].body))) == public(dir(_native.Cache))


def test_functions_have_the_signatures_and_texts_of_the_stub():
    for name, stub in members(STUB.body):
        if isinstance(stub, ast.FunctionDef):
            check(stub, getattr(_native, name))


def test_methods_have_the_signatures_and_texts_of_the_stub():
    for kind in (_native.Cache, _native.Load):
        [found] = [stub for name, stub in members(STUB.body) if name == kind.__name__]
        assert ast.get_docstring(found) == inspect.getdoc(kind)
        for name, stub in members(found.body):
            real = kind if name == "__new__" else getattr(kind, name)
            if inspect.isgetsetdescriptor(real):
                assert ast.get_docstring(stub) == inspect.getdoc(real), name
            else:
                check(stub, real)
