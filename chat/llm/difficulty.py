"""How hard a question is, estimated from its words alone: without a model or the network, and with a reason.

Each rule gives points for what it finds. Their sum decides the tier, and the rule that gave most is the reason. Only
the beginning and the end of the question are read, where people say what they want: between them is what they pasted.
"""

import re
from dataclasses import dataclass

from django.db import models
from django.utils.translation import gettext_lazy as _

from chat.models import LanguageModel

Tier = LanguageModel.Tier

HEAD_CHARACTERS, TAIL_CHARACTERS = 1_000, 400
"""Of a question, that are read."""
MID_POINTS, STRONG_POINTS = 3, 7
LENGTH_POINTS = ((200, 3), (60, 2), (30, 1))
"""Points from a number of tokens on: a longer question wants a longer answer, and a document rarely a short one."""


class Route(models.TextChoices):
    """Why Auto chose a model, as a turn stores it and a person reads it after "Auto → Claude Haiku 5.5 ·"."""

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
    """Return what people read for a turn's route; empty for none, and for one that no longer exists."""
    return str(Route(code).label) if code in Route.values else ""


@dataclass(frozen=True, slots=True)
class Difficulty:
    """The tier a question needs, and why."""

    tier: LanguageModel.Tier
    route: Route


@dataclass(frozen=True, slots=True)
class Rule:
    """`points` for `route` for each different match of `pattern`, up to `max_matches` of them."""

    route: Route
    points: int
    max_matches: int
    pattern: re.Pattern[str]


def _words(stems: str) -> re.Pattern[str]:
    """Return a pattern of whole words. A final "-" stands for any ending, "_" for a space."""
    alternatives = "|".join(re.escape(stem).replace(r"\-", r"\w*").replace("_", r"\s+") for stem in stems.split())
    return re.compile(rf"\b(?:{alternatives})\b")


# In lower case and without accents, as the text is normalised before it is matched.
RULES = (
    # A pasted program, error or query.
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
    # A request for a program.
    Rule(
        Route.CODE,
        3,
        1,
        re.compile(
            r"\b(?:write|create|build|develop|implement|make|refactor|give me|show me|set up|configure|escrib\w+"
            r"|cre[ae]\w*|haz\w*"
            r"|hag\w*|program\w*|implement\w*|dame|configur\w+|monta\w*|escrev\w+|fac?a|faz\w*|me da|manda)\b.{0,60}"
            r"\b(?:function|funcion|funcao|script|class|clase|classe|component\w*|api|query|consulta sql|regex"
            r"|regular expression"
            r"|expresion regular|expressao regular|algorithm|algoritmo|website|pagina web|bot|macro|formula|unit tests?"
            r"|tests? unitari\w+|dockerfile|endpoint|program|programa|app|code|codigo|css|html|sql|nginx|server"
            r"|servidor)\b"
        ),
    ),
    # Names of technologies. One makes a small question, and many do not make a hard one.
    Rule(
        Route.CODE,
        1,
        2,
        _words(
            "python javascript typescript java c++ rust golang react django flask laravel rails sql mysql"
            " postgres- sqlite"
            " redis kafka docker- kubernetes nginx css html regex backend frontend api bash linux git thread- async"
            " algorithm- algoritmo- data_structure- estructura_de_datos estrutura_de_dados array- recursi-"
        ),
    ),
    # Problems that are hard to reproduce: races, leaks, latency.
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
    # Words of school mathematics.
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
    # The steps of a calculation are asked for.
    Rule(
        Route.MATH,
        3,
        1,
        re.compile(
            r"\bshow (?:your|the) (?:working|work|steps)|(?:muestr|explic|mostr|detall)\w+ (?:los pasos|las cuentas"
            r"|as contas"
            r"|os passos|os calculos|el calculo|los calculos|o calculo)"
        ),
    ),
    # Word problems: two numbers, then how many or how long.
    Rule(
        Route.MATH,
        3,
        1,
        re.compile(
            r"\d\D{3,90}\d[\d.,]*\D{3,90}\b(?:how (?:many|much|long|far)|at what|when (?:do|will)|cuant[oa]s?"
            r"|quant[oa]s?)\b"
        ),
    ),
    # Proofs and derivations are asked for: those of a quick model look right, and are not.
    Rule(
        Route.MATH,
        7,
        1,
        re.compile(
            r"(?:^|[.,:;!?)]\s*|\n\s*|\b(?:and|then|to|y|e|luego|despues|depois|entao)\s+)"
            r"(?:(?:please|por favor)\s+)?(?:demuestr[ae]\b|demostrar\b|demonstr(?:e|ar)\b|prueb[ae] (?:que|la|el|lo"
            r"|los|las)\b"
            r"|probar que|prove\b|pro[vw]ar que|show that|mostr(?:e|ar) que|muestra que|deduz(?:a|ir)\b|deduce\b"
            r"|deducir\b"
            r"|derive (?:the|an?)\b)|\b(?:proof|demostracion|demonstracao|prova) (?:by|that|de que"
            r"|por inducc?[ia]o?n?)\b"
            r"|\b(?:give|find|write|da|dame|escribe|escreva|de) (?:a|an|the|una|la|uma|a)\b.{0,20}\b(?:proof"
            r"|demostracion|demonstracao)\b"
        ),
    ),
    # A reasoned opinion is asked for.
    Rule(
        Route.ANALYSIS,
        2,
        4,
        _words(
            "analyse analyze analysis analiz- analis- evaluat- evalu- avali- assess critical- critic- argument-"
            " objection-"
            " objec- trade-off- tradeoff- alternativ- riesgo- risco- risk- implica- hipotes- hypothes- evidenc-"
            " strateg-"
            " estrateg- justif- assumption- supuestos premissas sensibilidad sensibilidade sensitivity scenario-"
            " escenario-"
            " cenario- tese thesis tesis defend- refut- rebut- razona razone raciocin- discuss discut-"
        ),
    ),
    # Law, medicine, money: a wrong answer is expensive.
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
    # Design of systems.
    Rule(
        Route.ANALYSIS,
        4,
        1,
        _words(
            "architecture- architect arquitectura- arquitetura- design_a- disena disenar disene projete projetar"
            " escalar"
            " escalab- scalab- scale consistency consistencia migrar migrate migracion migracao migration"
        ),
    ),
    # Thoroughness is asked for.
    Rule(
        Route.ANALYSIS,
        2,
        2,
        re.compile(
            r"\b(?:step[- ]by[- ]step|paso a paso|passo a passo|a fondo|in depth|em profundidade|en profundidad"
            r"|for each"
            r"|para cada|de cada|every|each of|order of|en que orden|em que ordem|exhaustiv\w+|thorough\w*|rigor\w*)\b"
        ),
    ),
    # An explanation or a comparison is asked for.
    Rule(
        Route.ANALYSIS,
        3,
        1,
        re.compile(
            r"\b(?:expli(?:ca|que|car|came|cas)\w*|explain\w*|compar[aeio]\w*|pros and cons|pros y contras"
            r"|pros e contras"
            r"|ventajas|vantagens|inconvenientes|desventajas|desvantagens|causes|causas|consequenc\w+|consecuenc\w+)\b"
        ),
    ),
    # Why, and open questions: not trivial if they have a few more words.
    Rule(
        Route.ANALYSIS,
        2,
        1,
        re.compile(
            r"\b(?:why|por que|discuss|describe|descri[bv]\w+|elaborate on|elabora sobre|influenc\w+|influy\w+"
            r"|affects?|afecta\w*"
            r"|afeta\w*|shapes?|impact\w*|what factors|que factores|que fatores|should we|deberiamos|devemos|challenges"
            r"|desafios|retos)\b"
        ),
    ),
    # Hypothetical questions.
    Rule(
        Route.ANALYSIS,
        3,
        1,
        re.compile(
            r"^\W{0,9}what if\b|\bwhat would (?:have )?happen|\bque (?:habria|hubiera) (?:pasado|sido|ocurrido)"
            r"|\bo que teria (?:acontecido|sido)"
        ),
    ),
    # A text is asked for.
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
    # Role play.
    Rule(
        Route.WRITING,
        3,
        1,
        re.compile(
            r"^\W{0,9}(?:imagine|pretend|act as|embod[yi]|take on the role|embrace the role|you are an? "
            r"|picture yourself|imagina|actua como"
            r"|haz de|finge|aja como|finja|voce e uma? )|^\W{0,9}(?:as an? |if you were )[^,.]{3,60},"
        ),
    ),
    # Plans with several parts are asked for.
    Rule(
        Route.WRITING,
        3,
        1,
        re.compile(
            r"^\W{0,9}plan\b|\b(?:a|an|un|um|study|business|training|meal|lesson) plan\b|\b(?:plan de|planific\w+"
            r"|planej\w+|roteiro"
            r"|itinerar\w+|cronograma|schedule for|interview|entrevista|workshop|taller|curriculum for)\b"
        ),
    ),
)

# A line or two is asked for, which is soon done, whatever else is found.
BRIEF = re.compile(
    r"\b(?:(?:in|en|em) (?:one|two|una?|dos|uma?|duas|dois) (?:words?|sentences?|lines?|frases?|lineas?"
    r"|linhas?|palabras?"
    r"|palavras?)|one-sentence|two-line|cort(?:a|o|ito|ita)|curt[ao]|short|brief|breve)\b"
)
BRIEF_POINTS = -2
# A fact, or the translation of a sentence, is asked for.
FACTUAL = re.compile(
    r"^\W{0,9}(?:what(?:'s| is| does| year)|who(?:'s| is)|when|where|which|how (?:long|many|much|do you say)"
    r"|cual|quien|cuando"
    r"|donde|cuant\w+|como se dice|que (?:significa|es|diferencia|horas?)|qual|quem|quando|onde|quant\w+"
    r"|o que (?:e|significa)"
    r"|translate|tradu\w+|corrig\w+|corrij\w+|fix|convert)\b"
)
FACTUAL_POINTS = -2
FACTUAL_TOKENS = 60
"""A longer question asks for more than a fact, however it begins."""
IMAGE_POINTS = 2
FOREIGN_TOKENS = 30
"""From this length on, a question in a script that has no rules counts as one for the middle tier."""

_ACCENTS = str.maketrans("áàâãäéèêëíìîïóòôõöúùûüçñ’", "aaaaaeeeeiiiiooooouuuucn'")
_FENCED = re.compile(r"```.*?(?:```|\Z)", re.S)
_LETTER = re.compile(r"[^\W\d_]")
_LATIN = re.compile(r"[a-zA-Z\u00c0-\u024f]")


def judge(question: str, *, has_images: bool = False) -> Difficulty:
    """Return the tier a question needs, and why: within a few milliseconds, however long it is."""
    tokens = len(question.encode()) // 4
    text = _normalised(_beginning_and_end(question))
    points = _points_of(text)
    points[Route.LONG] = next((points for min_tokens, points in LENGTH_POINTS if tokens >= min_tokens), 0)
    points[Route.SHORT] = _shortness_points(text, tokens, has_math=points[Route.MATH] > 0)
    points[Route.IMAGE] = IMAGE_POINTS if has_images else 0
    points[Route.LANGUAGE] = MID_POINTS if tokens >= FOREIGN_TOKENS and _is_foreign(text) else 0
    total = sum(points.values())
    if total >= MID_POINTS:
        length_points = max(0, points[Route.LONG] - 1)  # length alone does not need the strong tier
        tier = Tier.STRONG if total - length_points >= STRONG_POINTS else Tier.MID
        return Difficulty(tier, max(points, key=lambda route: points[route]))
    return Difficulty(Tier.CHEAP, Route.IMAGE if has_images else Route.SHORT)


def _beginning_and_end(question: str) -> str:
    if len(question) <= HEAD_CHARACTERS + TAIL_CHARACTERS:
        return question
    return f"{question[:HEAD_CHARACTERS]}\n{question[-TAIL_CHARACTERS:]}"


def _normalised(text: str) -> str:
    return text.lower().translate(_ACCENTS)


def _points_of(text: str) -> dict[Route, int]:
    """Return the points by reason. The first rule sees all of the text, the others what is outside of code blocks."""
    prose = _FENCED.sub(" ", text)
    points: dict[Route, int] = {}
    for rule in RULES:
        searched = text if rule is RULES[0] else prose
        matches = 1 if rule.max_matches == 1 and rule.pattern.search(searched) else 0
        if rule.max_matches > 1:
            matches = min(rule.max_matches, len({match.group() for match in rule.pattern.finditer(searched)}))
        points[rule.route] = points.get(rule.route, 0) + rule.points * matches
    return points


def _shortness_points(text: str, tokens: int, *, has_math: bool) -> int:
    points = BRIEF_POINTS if BRIEF.search(text) else 0
    is_factual = tokens <= FACTUAL_TOKENS and not has_math and FACTUAL.search(text)
    return points + (FACTUAL_POINTS if is_factual else 0)


def _is_foreign(text: str) -> bool:
    """Return whether most letters are of a script that no rule has words of."""
    letters = len(_LETTER.findall(text))
    return letters > 0 and len(_LATIN.findall(text)) < letters / 2
