"""How hard a question is, guessed from its words alone: no model, no network, and a reason one can read.

Each rule gives points for what it finds. Their sum is the tier, and the rule that gave most is the reason. What is read
is the beginning and the end of the question, where people say what they want: between the two is what they pasted.
"""

import re
from dataclasses import dataclass

from django.db import models
from django.utils.translation import gettext_lazy as _

from chat.models import LanguageModel

Tier = LanguageModel.Tier

HEAD, TAIL = 1_000, 400
"""Characters of a question that are read."""
MID_POINTS, STRONG_POINTS = 3, 7
LENGTH_POINTS = ((200, 3), (60, 2), (30, 1))
"""From how many tokens on which points: who explains more wants more, and of a document seldom a trifle."""


class Route(models.TextChoices):
    """Why a model was chosen, as a turn keeps it and a person reads it after "Auto → Claude Haiku 5.5 ·"."""

    SHORT = "short", _("short question")
    CODE = "code", _("code")
    MATH = "math", _("mathematics")
    ANALYSIS = "analysis", _("analysis")
    WRITING = "writing", _("writing")
    LONG = "long", _("long question")
    IMAGE = "image", _("image")
    LANGUAGE = "language", _("language")
    FOLLOW_UP = "follow_up", _("same conversation")
    LOW_CREDITS = "low_credits", _("saving credits")
    LAST_CREDITS = "last_credits", _("credits nearly used up")
    ONLY_ONE = "only_one", _("the only one available")


def route_label(code: str) -> str:
    """Return what people read for a turn's route; empty for none, and for one that is not known any more."""
    return str(Route(code).label) if code in Route.values else ""


@dataclass(frozen=True, slots=True)
class Difficulty:
    """The tier a question wants, and the code of why."""

    tier: LanguageModel.Tier
    route: Route


@dataclass(frozen=True, slots=True)
class Rule:
    """`points` for each different thing that `pattern` finds, up to `most` of them, towards `route`."""

    route: Route
    points: int
    most: int
    pattern: re.Pattern[str]


def _words(stems: str) -> re.Pattern[str]:
    """Return a pattern of whole words; a stem that ends in "-" stands for all words that begin with it."""
    alternatives = "|".join(re.escape(stem).replace(r"\-", r"\w*").replace("_", r"\s+") for stem in stems.split())
    return re.compile(rf"\b(?:{alternatives})\b")


# Without accents and in small letters, as the text is folded before it is read.
RULES = (
    # Somebody pasted a program, an error or a query.
    Rule(
        Route.CODE,
        3,
        1,
        re.compile(
            r"```|\btraceback\b|\b\w+(?:error|exception):|^\s*at \w+\.\w|\bselect\s[\w.,*()\s]{1,80}\sfrom\s+\w"
            r"|[;{]\s*$|=>|</\w+>|^\s*(?:def|class|func|function|import|#include|public|private|const|let|var)\b.*[(:;{=]",
            re.M,
        ),
    ),
    # Somebody wants a program, not a word about one.
    Rule(
        Route.CODE,
        3,
        1,
        re.compile(
            r"\b(?:write|create|build|develop|implement|make|refactor|give me|show me|set up|configure|escrib\w+|cre[ae]\w*|haz\w*"
            r"|hag\w*|program\w*|implement\w*|dame|configur\w+|monta\w*|escrev\w+|fac?a|faz\w*|me da|manda)\b.{0,60}"
            r"\b(?:function|funcion|funcao|script|class|clase|classe|component\w*|api|query|consulta sql|regex|regular expression"
            r"|expresion regular|expressao regular|algorithm|algoritmo|website|pagina web|bot|macro|formula|unit tests?"
            r"|tests? unitari\w+|dockerfile|endpoint|program|programa|app|code|codigo|css|html|sql|nginx|server|servidor)\b"
        ),
    ),
    # Its words. One is a small question, and many names do not make a hard one.
    Rule(
        Route.CODE,
        1,
        2,
        _words(
            "python javascript typescript java c++ rust golang react django flask laravel rails sql mysql postgres- sqlite"
            " redis kafka docker- kubernetes nginx css html regex backend frontend api bash linux git thread- async"
            " algorithm- algoritmo- data_structure- estructura_de_datos estrutura_de_dados array- recursi-"
        ),
    ),
    # What goes wrong only sometimes: races, leaks, latency.
    Rule(
        Route.CODE,
        5,
        1,
        _words(
            "deadlock- race_condition- condicion_de_carrera condiciones_de_carrera condicao_de_corrida"
            " condicoes_de_corrida concurren- concorren- lost_update- memory_leak- vazamento_de_memoria fuga_de_memoria"
            " fugas_de_memoria interleaving- intercalado- idempoten- latency latencia p99 root_cause- causa_raiz"
            " exactly-once"
        ),
    ),
    # Formulas in LaTeX.
    Rule(
        Route.MATH,
        3,
        2,
        re.compile(r"\\(?:frac|int|sum|lim|sqrt|mathbb|begin|infty|equiv|cdot|forall|exists)\b|\$[^$\n]{2,}\$"),
    ),
    # Formulas as people type them.
    Rule(Route.MATH, 3, 1, re.compile(r"\b[xyfg]\s?(?:\(x\)\s?)?=|[a-z]\^\d|[a-z0-9)][²³]|\d[xy]\b")),
    # School mathematics by name.
    Rule(
        Route.MATH,
        3,
        1,
        _words(
            "derivada- derivative- integral- integrales integrais equation- ecuacion- equacao equacoes matrix matriz"
            " determinant- polinomi- polynomial- factoriz- fatora- factorise factorize probabilidad- probabilidade-"
            " probability theorem- teorema- logarithm- logaritmo- trigonometr-"
            " triangle triangulo vertices remainder resto_de inequality inecuacion inequacao desigualdad desigualdade"
            " perimeter perimetro hypotenuse hipotenusa integers"
        ),
    ),
    # Figures, and the way to one more.
    Rule(
        Route.MATH,
        3,
        1,
        re.compile(
            r"\bshow (?:your|the) (?:working|work|steps)|(?:muestr|explic|mostr|detall)\w+ (?:los pasos|las cuentas|as contas"
            r"|os passos|os calculos|el calculo|los calculos|o calculo)"
        ),
    ),
    # Word problems: two figures, and how many or how long that makes.
    Rule(
        Route.MATH,
        3,
        1,
        re.compile(
            r"\d\D{3,90}\d[\d.,]*\D{3,90}\b(?:how (?:many|much|long|far)|at what|when (?:do|will)|cuant[oa]s?|quant[oa]s?)\b"
        ),
    ),
    # Proofs and derivations, told to be made: a quick model's look right, and are not.
    Rule(
        Route.MATH,
        7,
        1,
        re.compile(
            r"(?:^|[.,:;!?)]\s*|\n\s*|\b(?:and|then|to|y|e|luego|despues|depois|entao)\s+)"
            r"(?:(?:please|por favor)\s+)?(?:demuestr[ae]\b|demostrar\b|demonstr(?:e|ar)\b|prueb[ae] (?:que|la|el|lo|los|las)\b"
            r"|probar que|prove\b|pro[vw]ar que|show that|mostr(?:e|ar) que|muestra que|deduz(?:a|ir)\b|deduce\b|deducir\b"
            r"|derive (?:the|an?)\b)|\b(?:proof|demostracion|demonstracao|prova) (?:by|that|de que|por inducc?[ia]o?n?)\b"
            r"|\b(?:give|find|write|da|dame|escribe|escreva|de) (?:a|an|the|una|la|uma|a)\b.{0,20}\b(?:proof|demostracion|demonstracao)\b"
        ),
    ),
    # An opinion with reasons is wanted.
    Rule(
        Route.ANALYSIS,
        2,
        4,
        _words(
            "analyse analyze analysis analiz- analis- evaluat- evalu- avali- assess critical- critic- argument- objection-"
            " objec- trade-off- tradeoff- alternativ- riesgo- risco- risk- implica- hipotes- hypothes- evidenc- strateg-"
            " estrateg- justif- assumption- supuestos premissas sensibilidad sensibilidade sensitivity scenario- escenario-"
            " cenario- tese thesis tesis defend- refut- rebut- razona razone raciocin- discuss discut-"
        ),
    ),
    # Law, medicine, money: a wrong answer costs something.
    Rule(
        Route.ANALYSIS,
        2,
        2,
        _words(
            "clause- clausul- contrato contract jurisprudenc- indemni- liabilit- fiscal- tribut- tax taxes merger merge"
            " trustee- pension- statut- lawsuit demanda_judicial paciente patient diagnos- prognos- dosage posologia"
            " contraindica- interest_rate- rentabilidad rentabilidade valuation"
        ),
    ),
    # Systems to be thought out.
    Rule(
        Route.ANALYSIS,
        4,
        1,
        _words(
            "architecture- architect arquitectura- arquitetura- design_a- disena disenar disene projete projetar escalar"
            " escalab- scalab- scale consistency consistencia migrar migrate migracion migracao migration"
        ),
    ),
    # Thoroughness is asked for by name.
    Rule(
        Route.ANALYSIS,
        2,
        2,
        re.compile(
            r"\b(?:step[- ]by[- ]step|paso a paso|passo a passo|a fondo|in depth|em profundidade|en profundidad|for each"
            r"|para cada|de cada|every|each of|order of|en que orden|em que ordem|exhaustiv\w+|thorough\w*|rigor\w*)\b"
        ),
    ),
    # Something to be explained or weighed: more than a fact.
    Rule(
        Route.ANALYSIS,
        3,
        1,
        re.compile(
            r"\b(?:expli(?:ca|que|car|came|cas)\w*|explain\w*|compar[aeio]\w*|pros and cons|pros y contras|pros e contras"
            r"|ventajas|vantagens|inconvenientes|desventajas|desvantagens|causes|causas|consequenc\w+|consecuenc\w+)\b"
        ),
    ),
    # Why, and open questions: with a few words more they are no small ones.
    Rule(
        Route.ANALYSIS,
        2,
        1,
        re.compile(
            r"\b(?:why|por que|discuss|describe|descri[bv]\w+|elaborate on|elabora sobre|influenc\w+|influy\w+|affects?|afecta\w*"
            r"|afeta\w*|shapes?|impact\w*|what factors|que factores|que fatores|should we|deberiamos|devemos|challenges"
            r"|desafios|retos)\b"
        ),
    ),
    # What would have been.
    Rule(
        Route.ANALYSIS,
        3,
        1,
        re.compile(
            r"^\W{0,9}what if\b|\bwhat would (?:have )?happen|\bque (?:habria|hubiera) (?:pasado|sido|ocurrido)"
            r"|\bo que teria (?:acontecido|sido)"
        ),
    ),
    # Texts that must be composed.
    Rule(
        Route.WRITING,
        3,
        1,
        re.compile(
            r"\b(?:write|writing|draft|rewrite|create|compose|craft|structure|redact\w+|escrib\w+|escrev\w+|reescrev\w+|reescrib\w+"
            r"|elabor\w+|prepar\w+)\b.{0,50}"
            r"\b(?:e-?mails?|correo|letter|carta|story|cuento|relato|conto|poem\w*|essay|ensayo|redacao|discurso|speech|outline"
            r"|article|articulo|artigo|descripcion|descricao|description|cv|curriculum|curriculo|summary|resumen|resumo"
            r"|report|informe|relatorio|review|resena|resenha"
            r"|critica|blog|post|paragraph|parrafo|paragrafo|script|guion|song|cancion|lyrics|character|personaje|personagem|presentation|presentacion|apresentacao|proposal|propuesta|proposta)\b"
            r"|\b(?:write to|escribir(?:le|les)? a|escrever (?:para|ao?))\b"
        ),
    ),
    # A part to be played.
    Rule(
        Route.WRITING,
        3,
        1,
        re.compile(
            r"^\W{0,9}(?:imagine|pretend|act as|embod[yi]|take on the role|embrace the role|you are an? |picture yourself|imagina|actua como"
            r"|haz de|finge|aja como|finja|voce e uma? )|^\W{0,9}(?:as an? |if you were )[^,.]{3,60},"
        ),
    ),
    # Plans with several parts.
    Rule(
        Route.WRITING,
        3,
        1,
        re.compile(
            r"^\W{0,9}plan\b|\b(?:a|an|un|um|study|business|training|meal|lesson) plan\b|\b(?:plan de|planific\w+|planej\w+|roteiro"
            r"|itinerar\w+|cronograma|schedule for|interview|entrevista|workshop|taller|curriculum for)\b"
        ),
    ),
)

# A line or two is wanted, or a translation of a sentence: whatever else is found, it is soon done.
BRIEF = re.compile(
    r"\b(?:(?:in|en|em) (?:one|two|una?|dos|uma?|duas|dois) (?:words?|sentences?|lines?|frases?|lineas?|linhas?|palabras?"
    r"|palavras?)|one-sentence|two-line|cort(?:a|o|ito|ita)|curt[ao]|short|brief|breve)\b"
)
BRIEF_POINTS = -2
FACTUAL = re.compile(
    r"^\W{0,9}(?:what(?:'s| is| does| year)|who(?:'s| is)|when|where|which|how (?:long|many|much|do you say)|cual|quien|cuando"
    r"|donde|cuant\w+|como se dice|que (?:significa|es|diferencia|horas?)|qual|quem|quando|onde|quant\w+|o que (?:e|significa)"
    r"|translate|tradu\w+|corrig\w+|corrij\w+|fix|convert)\b"
)
FACTUAL_POINTS = -2
FACTUAL_TOKENS = 60
"""Longer ones are not done with a fact, however they begin."""
IMAGE_POINTS = 2
FOREIGN_TOKENS = 30
"""From this length on, a question in a script without rules is not taken for a trifle."""

_ACCENTS = str.maketrans("áàâãäéèêëíìîïóòôõöúùûüçñ’", "aaaaaeeeeiiiiooooouuuucn'")
_FENCED = re.compile(r"```.*?(?:```|\Z)", re.S)
_LETTER = re.compile(r"[^\W\d_]")
_LATIN = re.compile(r"[a-zA-Z\u00c0-\u024f]")


def judge(question: str, *, has_images: bool = False) -> Difficulty:
    """Return the tier a question wants, and why: within a few milliseconds, however long it is."""
    tokens = len(question.encode()) // 4
    text = _folded(question if len(question) <= HEAD + TAIL else f"{question[:HEAD]}\n{question[-TAIL:]}")
    points = _points_of(text)
    points[Route.LONG] = next((points for least, points in LENGTH_POINTS if tokens >= least), 0)
    points[Route.SHORT] = _shortness(text, tokens, is_sum=points[Route.MATH] > 0)
    points[Route.IMAGE] = IMAGE_POINTS if has_images else 0
    points[Route.LANGUAGE] = MID_POINTS if tokens >= FOREIGN_TOKENS and _is_foreign(text) else 0
    total = sum(points.values())
    if total >= MID_POINTS:
        of_length = max(0, points[Route.LONG] - 1)  # length makes no question strong
        tier = Tier.STRONG if total - of_length >= STRONG_POINTS else Tier.MID
        return Difficulty(tier, max(points, key=lambda route: points[route]))
    return Difficulty(Tier.CHEAP, Route.IMAGE if has_images else Route.SHORT)


def _folded(text: str) -> str:
    return text.lower().translate(_ACCENTS)


def _points_of(text: str) -> dict[Route, int]:
    """Return the points by reason. Words are looked for outside of code, what code looks like everywhere."""
    prose = _FENCED.sub(" ", text)
    points: dict[Route, int] = {}
    for rule in RULES:
        where = text if rule is RULES[0] else prose
        found = 1 if rule.most == 1 and rule.pattern.search(where) else 0
        if rule.most > 1:
            found = min(rule.most, len({match.group() for match in rule.pattern.finditer(where)}))
        points[rule.route] = points.get(rule.route, 0) + rule.points * found
    return points


def _shortness(text: str, tokens: int, *, is_sum: bool) -> int:
    points = BRIEF_POINTS if BRIEF.search(text) else 0
    is_factual = tokens <= FACTUAL_TOKENS and not is_sum and FACTUAL.search(text)
    return points + (FACTUAL_POINTS if is_factual else 0)


def _is_foreign(text: str) -> bool:
    """Return whether most letters are of a script whose words are in no rule."""
    letters = len(_LETTER.findall(text))
    return letters > 0 and len(_LATIN.findall(text)) < letters / 2
