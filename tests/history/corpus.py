"""A history in three languages, and 300 queries with what they must find, the newest first.

What is written by hand is in WRITTEN. The others are made from the texts, and what they find is told by `expected`,
which reads every text, knows nothing of stores or indexes, and folds in its own way.
"""

import datetime as dt
import unicodedata
from dataclasses import dataclass
from functools import cache

BEGAN = dt.datetime(2025, 11, 3, 12, tzinfo=dt.UTC)
DAYS_BETWEEN = 5


@dataclass(frozen=True)
class Text:
    """A turn of the corpus. Its number is its place: the higher, the newer."""

    conversation: str
    question: str
    answer: str
    model: str = "claude-opus"
    has_file: bool = False


SPANISH = [
    Text("Recetas", "¿Cómo se cocina el arroz?", "Lava el arroz y cuécelo 18 minutos con el doble de agua."),
    Text("Recetas", "¿Y una tarta de limón?", "Mezcla azúcar, huevos y limón. Hornea a 180 °C.", "gpt-5-mini"),
    Text("Recetas", "¿Qué ceno con lentejas?", "Unas lentejas con calabaza y comino.", has_file=True),
    Text("Viajes", "Quiero ir a Bogotá en camión", "No hay camión directo; hay autobús desde Cali.", "gpt-5-mini"),
    Text("Viajes", "¿Cuánto cuesta el tren a Córdoba?", "Unos 45 €, según el día y la hora."),
    Text("Viajes", "¿Hace frío en La Paz en julio?", "Sí: de noche bajo cero. Lleva un abrigo.", "deepseek-chat"),
    Text("Código", "¿Por qué falla SELECT * FROM a_b WHERE x LIKE '100%'?", "El % es un comodín: escápalo con \\%."),
    Text("Código", "Explica la expresión regular ^[a-z]+\\.py$", "Letras minúsculas y después «.py», nada más."),
    Text("Código", "¿Qué es std::vector en C++?", "Un arreglo que crece. Se usa v.push_back(x);", "gpt-5-mini"),
    Text("Gramática", "¿«Aún» o «aun»?", "«Aún» es «todavía»; «aun» es «incluso»."),
    Text("Gramática", "El niño pequeño y la niña", "Diminutivos: pequeñito, pequeñita. 👩‍👩‍👧"),
    Text("Gramática", "pingu\u0308ino con diéresis suelta", "El pingüino lleva diéresis."),
]
PORTUGUESE = [
    Text("Receitas", "Como faço pão de queijo?", "Misture polvilho, queijo e leite; asse por 25 minutos."),
    Text("Receitas", "E um bolo de limão?", "Bata açúcar, ovos e limão. Asse a 180 °C.", "gpt-5-mini"),
    Text("Receitas", "Qual é a receita de feijoada?", "Feijão preto, carnes e paciência.", has_file=True),
    Text("Viagens", "Vale a pena ir a São Paulo de trem?", "Não há trem; há ônibus e avião.", "gpt-5-mini"),
    Text("Viagens", "Quanto custa o avião para Maceió?", "Uns 900 reais, conforme o mês."),
    Text("Viagens", "Faz frio em Gramado em julho?", "Sim: leve um casaco. À noite faz 5 graus."),
    Text("Trabalho", "Corrija: 'a gente vamos à reunião'", "«A gente vai à reunião» ou «nós vamos à reunião»."),
    Text("Trabalho", "Escreva um e-mail para o chefe", "Prezado João, não poderei ir à reunião de amanhã."),
    Text("Trabalho", "O que é ROI?", "Retorno sobre investimento: (ganho - custo) / custo.", "deepseek-chat"),
    Text("Estudos", "Explique a fotossíntese", "As plantas usam luz para fazer glicose a partir de CO₂."),
    Text("Estudos", "Quem foi Machado de Assis?", "Autor de «Dom Casmurro» e «Memórias póstumas»."),
    Text("Estudos", "O coração bate quantas vezes?", "De 60 a 100 vezes por minuto, em repouso."),
]
ENGLISH = [
    Text("Recipes", "How do I cook rice?", "Rinse the rice and simmer it for 18 minutes."),
    Text("Recipes", "And a lemon cake?", "Beat sugar, eggs and lemon. Bake at 350 °F.", "gpt-5-mini"),
    Text("Recipes", "What goes with lentils?", "Lentils go with pumpkin and cumin.", has_file=True),
    Text("Travel", "Is there a train to Zürich from Straßburg?", "Yes, via Basel. The café car opens at 7."),
    Text("Travel", "naïve question: do I need a visa?", "It depends on your passport."),
    Text("Travel", "How cold is La Paz in July?", "Below zero at night. Bring a coat.", "deepseek-chat"),
    Text("Code", "Why does 100% match 1000?", "Because % is a wildcard in LIKE; escape it with \\%."),
    Text("Code", 'What does {{ user|default:"nobody" }} do?', "It prints “nobody” if user is empty."),
    Text("Code", "Fix: TypeError: 'NoneType' object is not iterable", "Your function returns None.", "gpt-5-mini"),
    Text("Money", "What is 20 % of $1,500.00?", "$300.00, that is 1,500 × 0.2."),
    Text("Money", "Is the ﬁrst oﬃce eﬃcient?", "The ﬁrm’s oﬃce is; see Tertulia™ and №5."),
    Text("Money", "Ｆｕｌｌ　ｗｉｄｔｈ text", "Half width text. ΓΕΙΑ ΣΑΣ, как дела? 你好，世界"),
]
TEXTS = [text for three in zip(SPANISH, PORTUGUESE, ENGLISH, strict=True) for text in three]
FOLDER = "Mis viajes"
IN_FOLDER = frozenset({"Viajes", "Viagens", "Travel"})


def asked_at(number: int) -> dt.datetime:
    return BEGAN + dt.timedelta(days=DAYS_BETWEEN * number)


WRITTEN: dict[str, list[str]] = {
    "arroz": ["¿Cómo se cocina el arroz?"],
    "limon": ["¿Y una tarta de limón?"],
    "LIMÃO": ["E um bolo de limão?"],
    "julio": ["¿Hace frío en La Paz en julio?"],
    "frio julh": ["Faz frio em Gramado em julho?"],
    "la paz": ["How cold is La Paz in July?", "¿Hace frío en La Paz en julio?"],
    '"la paz en"': ["¿Hace frío en La Paz en julio?"],
    "“la paz in”": ["How cold is La Paz in July?"],
    "«dom casmurro»": ["Quem foi Machado de Assis?"],
    '"paz la"': [],
    "18 minut": ["How do I cook rice?", "¿Cómo se cocina el arroz?"],
    "100%": ["Why does 100% match 1000?", "¿Por qué falla SELECT * FROM a_b WHERE x LIKE '100%'?"],
    "a_b": ["¿Por qué falla SELECT * FROM a_b WHERE x LIKE '100%'?"],
    "\\%": ["Why does 100% match 1000?", "¿Por qué falla SELECT * FROM a_b WHERE x LIKE '100%'?"],
    "c++": ["¿Qué es std::vector en C++?"],
    "std::vector": ["¿Qué es std::vector en C++?"],
    "^[a-z]+\\.py$": ["Explica la expresión regular ^[a-z]+\\.py$"],
    "{{ user|default": ['What does {{ user|default:"nobody" }} do?'],
    "typeerror: iterable": ["Fix: TypeError: 'NoneType' object is not iterable"],
    "strassburg zurich": ["Is there a train to Zürich from Straßburg?"],
    "straßburg": ["Is there a train to Zürich from Straßburg?"],
    "naive": ["naïve question: do I need a visa?"],
    "first office efficient": ["Is the ﬁrst oﬃce eﬃcient?"],
    "tertuliatm no5": ["Is the ﬁrst oﬃce eﬃcient?"],
    "full width": ["Ｆｕｌｌ　ｗｉｄｔｈ text"],
    "世界": ["Ｆｕｌｌ　ｗｉｄｔｈ text"],
    "γεια σας": ["Ｆｕｌｌ　ｗｉｄｔｈ text"],
    "дела": ["Ｆｕｌｌ　ｗｉｄｔｈ text"],
    "👧": ["El niño pequeño y la niña"],
    "pinguino dieresis": ["pingu\u0308ino con diéresis suelta"],
    "co2": ["Explique a fotossíntese"],
    "1,500.00?": ["What is 20 % of $1,500.00?"],
    "has:file": ["What goes with lentils?", "Qual é a receita de feijoada?", "¿Qué ceno con lentejas?"],
    "con:archivo lent": ["What goes with lentils?", "¿Qué ceno con lentejas?"],
    "com:arquivo feij": ["Qual é a receita de feijoada?"],
    "model:deepseek frio": ["¿Hace frío en La Paz en julio?"],
    "modelo:DeepSeek custo": ["O que é ROI?"],
    "model:deepseek model:mini cold": ["How cold is La Paz in July?"],
    'folder:"mis viajes" tren': ["¿Cuánto cuesta el tren a Córdoba?"],
    "carpeta:“MIS VIAJES” trem": ["Vale a pena ir a São Paulo de trem?"],
    "after:2026-04-15": [
        *("Ｆｕｌｌ　ｗｉｄｔｈ text", "O coração bate quantas vezes?", "pingu\u0308ino con diéresis suelta"),
    ],
    "before:2025-11-04": ["¿Cómo se cocina el arroz?"],
    "antes:2025-11 arroz": [],
    "after:2026 before:2026-01-10 camion": [],
    "desde:2025 antes:2026 camion": ["Quiero ir a Bogotá en camión"],
    "nothingofthekind": [],
    "rice arroz": [],
}


def expected(query: "Made") -> list[str]:
    """Return the questions of the texts that a query finds, the newest first."""
    found = [text for number, text in enumerate(TEXTS) if query.finds(number, text)]
    return [text.question for text in reversed(found)]


@dataclass(frozen=True)
class Made:
    """A query that was made: as it is written, and what it means."""

    written: str
    words: tuple[str, ...] = ()
    model: str = ""
    in_folder: bool = False
    has_file: bool = False
    after: int = 0
    before: int = 10_000

    def finds(self, number: int, text: Text) -> bool:
        return (
            all(plain(word) in plain(f"{text.question}\n{text.answer}") for word in self.words)
            and self.model in text.model
            and (not self.in_folder or text.conversation in IN_FOLDER)
            and (not self.has_file or text.has_file)
            and self.after <= number < self.before
        )


@cache
def plain(text: str) -> str:
    decomposed = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold())
    return "".join(sign for sign in decomposed if not unicodedata.combining(sign))


def made_queries(count: int) -> list[Made]:
    """Return so many queries, a few of each kind from each text."""
    queries: dict[str, Made] = {}
    for round_ in range(10 * count):
        made = _make((round_ + round_ // len(TEXTS)) % 9, round_ % len(TEXTS), round_ // len(TEXTS))
        queries.setdefault(made.written, made)
        if len(queries) == count:
            break
    return list(queries.values())


def _make(kind: int, number: int, place: int) -> Made:
    text = TEXTS[number]
    words = [
        word for word in f"{text.question} {text.answer}".split() if ":" not in word and word.strip('"“”«»') == word
    ]
    at = place % (len(words) - 1)
    first, second = words[at], words[at + 1]
    day = asked_at(number).date()
    match kind:
        case 0:
            return Made(first.upper(), (first,))
        case 1:
            return Made(plain(first[: max(3, len(first) - 2)]), (first[: max(3, len(first) - 2)],))
        case 2:
            return Made(f"{second}  {first}", (first, second))
        case 3:
            return Made(f'"{first} {second}"', (f"{first} {second}",))
        case 4:
            return Made(f"{first} model:{text.model[:4]}", (first,), model=text.model[:4])
        case 5:
            return Made(f"{first} after:{day}", (first,), after=number)
        case 6:
            return Made(f"before:{day} {first}", (first,), before=number)
        case 7:
            return Made(f'{first} folder:"{FOLDER}"', (first,), in_folder=True)
        case _:
            return Made(first[0], (first[0],))
