"""The demo's databases: tables, the words that questions use for them, and what their rows are drawn from."""

import dataclasses

from text_to_sql.schema import Column, Link, Schema, Table

UNSEEN = ("lighthouse", "film_festival")  # databases of held-out questions only

FIRST = (
    "Ada Bruno Clara Dario Elena Felix Greta Hugo Ines Jonas Kira Leon Mara Nils Olga Paul Rosa Silas Tara Viktor "
    "Wanda Yusuf Zoe Amir Bella Cyrus Dina Emil Farah Gavin Hana Ivan Julia Kenji Lena Milan Nora Oscar"
).split()
LAST = (
    "Abbott Brandt Castro Dunn Ekberg Fontaine Grant Holm Ibarra Jensen Keller Lopez Moreau Novak Okafor Petrov Quinn "
    "Rossi Santos Tanaka Ueda Vargas Weber Young Zimmer Archer Becker Cole Diaz Evans"
).split()
COUNTRIES = "France Japan Brazil Kenya Norway Canada Italy India Mexico Greece".split()
CITIES = "Paris Oslo Lima Cairo Dublin Madrid Vienna Boston Lagos Kyoto Porto Denver".split()
PEOPLE = "PEOPLE"  # first and last names, all different within a table


@dataclasses.dataclass
class Source:
    """Where a column's values come from: a pool of words, or numbers from low to high in steps."""

    pool: object = ()
    low: int = 0
    high: int = 0
    step: int = 1


def name(column, pool):
    return Column(column, "name"), Source(pool)


def text(column, pool, equal=""):
    return Column(column, "text", equal=equal), Source(pool.split(", ") if isinstance(pool, str) else pool)


def number(column, low, high, step=1, compare=()):
    return Column(column, "number", compare=compare), Source(low=low, high=high, step=step)


def key(parent, phrase, column=""):
    return parent, phrase, column or f"{parent}_id"


def two(first, second):
    """Names of two words."""
    return [f"{a} {b}" for b in second.split() for a in first.split()]


BORN = ("born after {}", "born before {}", "youngest", "oldest")
BUILT = ("built after {}", "built before {}", "newest", "oldest")
FOUNDED = ("founded after {}", "founded before {}", "newest", "oldest")
OPENED = ("opened after {}", "opened before {}", "newest", "oldest")
FROM = "from {}"
IN = "in {}"

# db_id: {table or "table: singular, plural": (rows, columns...)}; parents come before their children.
DOMAINS = {
    "library": {
        "author": (
            28,
            name("name", PEOPLE),
            text("country", COUNTRIES, FROM),
            number("birth_year", 1902, 1994, 1, BORN),
        ),
        "book": (
            60,
            name(
                "title",
                two(
                    "Silent Golden Broken Hidden Distant Winter",
                    "River Garden Mirror Letter Harbor Island Orchard Clock",
                ),
            ),
            text("genre", "mystery, poetry, history, science, romance"),
            number("pages", 90, 820, 10),
            number(
                "publication_year", 1931, 2021, 1, ("published after {}", "published before {}", "newest", "oldest")
            ),
            key("author", "written by"),
        ),
        "loan": (
            50,
            number("loan_days", 3, 42),
            number("late_fee", 0, 30),
            text("branch", "North, South, Central, Harbor"),
            key("book", "of"),
        ),
    },
    "clinic": {
        "doctor": (
            24,
            name("name", PEOPLE),
            text("specialty", "cardiology, surgery, pediatrics, neurology, dermatology"),
            number("salary", 61000, 198000, 1000),
            number("years_of_service", 1, 35),
        ),
        "patient": (
            40,
            name("name", PEOPLE),
            number("age", 2, 91),
            text("city", CITIES, FROM),
            number("weight", 12, 121),
            text("blood_type", "A, B, AB, O"),
        ),
        "appointment": (
            70,
            number("duration", 10, 95, 5),
            number("cost", 30, 480, 10),
            text("room", "Red, Blue, Green, White"),
            key("doctor", "with"),
            key("patient", "of"),
        ),
    },
    "airline": {
        "airport": (
            22,
            name("name", two("North South Royal Lakeside Coastal", "Gate Field Terminal Meadow Point")),
            text("city", CITIES, IN),
            text("country", COUNTRIES, IN),
            number("runways", 1, 6),
        ),
        "aircraft: aircraft, aircraft": (
            18,
            name("model", two("Falcon Heron Swift Condor Osprey", "100 200 350 400")),
            number("seats", 20, 420, 10),
            number("range", 900, 14800, 100),
            text("maker", "Norwing, Altus, Skyline, Veloce"),
        ),
        "flight": (
            70,
            name("flight_code", "LX NV QT RB SK".split()),
            number("distance", 180, 9800, 10),
            number("price", 40, 1450, 5),
            key("airport", "leaving from"),
            key("aircraft", "flown with"),
        ),
    },
    "museum": {
        "museum": (
            20,
            name("name", two("National City Old Modern Royal", "Gallery Museum Collection Archive")),
            text("city", CITIES, IN),
            number("opening_year", 1820, 2015, 1, OPENED),
            number("staff_count", 5, 240),
        ),
        "painter": (
            24,
            name("name", PEOPLE),
            text("nationality", "French, Dutch, Spanish, Chinese, Polish"),
            number("birth_year", 1790, 1985, 1, BORN),
        ),
        "painting": (
            64,
            name(
                "title",
                two(
                    "Blue Crimson Quiet Burning Frozen Gentle Wild",
                    "Horizon Market Dancer Forest Bridge Window Portrait Storm",
                ),
            ),
            number("price", 1200, 98000, 100),
            number("height", 20, 310),
            text("style", "baroque, cubism, realism, abstract, impressionism"),
            key("painter", "painted by"),
            key("museum", "shown in"),
        ),
    },
    "school": {
        "teacher": (
            22,
            name("name", PEOPLE),
            text("subject", "math, biology, music, geography, chemistry"),
            number("age", 24, 66),
            number("salary", 31000, 74000, 500),
        ),
        "course": (
            36,
            name(
                "title",
                two("Basic Advanced Applied Practical Modern Classical", "Algebra Botany Harmony Maps Reactions Logic"),
            ),
            number("credits", 1, 9),
            number("capacity", 8, 120, 2),
            text("semester", "spring, summer, autumn, winter"),
            key("teacher", "taught by"),
        ),
        "student: pupil, pupils": (
            44,
            name("name", PEOPLE),
            number("age", 11, 19),
            text("hometown", CITIES, FROM),
            number("grade_point", 40, 100),
        ),
        "enrollment": (
            80,
            number("score", 30, 100),
            text("status", "passed, failed, active"),
            key("course", "in"),
            key("student", "of"),
        ),
    },
    "farm": {
        "farm": (
            18,
            name("name", two("Sunny Green Stone Willow Maple", "Acres Hollow Valley Ridge")),
            text("region", "north, south, east, west, coast"),
            number("area", 12, 940, 2),
            number("founding_year", 1850, 2012, 1, FOUNDED),
        ),
        "animal": (
            56,
            name(
                "nickname",
                "Daisy Rocky Pepper Clover Bingo Hazel Ginger Misty Bandit Coco Rusty Maple Toffee "
                "Shadow Biscuit Nutmeg Willow Sunny Poppy Ziggy".split(),
            ),
            text("species", "cow, goat, sheep, horse, pig"),
            number("age", 1, 18),
            number("weight", 20, 870, 5),
            key("farm", "living on"),
        ),
        "harvest": (
            50,
            text("crop", "wheat, corn, barley, potato, carrot"),
            number("year", 2008, 2023),
            number("tons", 4, 260),
            key("farm", "of"),
        ),
    },
    "cinema": {
        "cinema": (
            20,
            name("name", two("Grand Star Palace Corner Plaza", "Screen Cinema House Rex")),
            text("city", CITIES, IN),
            number("capacity", 60, 980, 10),
            number("opening_year", 1921, 2019, 1, OPENED),
        ),
        "movie": (
            40,
            name(
                "title",
                two(
                    "Midnight Electric Lonely Paper Velvet", "Train Planet Summer Detective Heart Kingdom Signal Circus"
                ),
            ),
            text("genre", "comedy, drama, horror, thriller, western"),
            number("duration", 74, 196),
            number("rating", 10, 98),
            text("director", [f"{a} {b}" for a, b in zip(FIRST[:8], LAST[8:16])], "directed by {}"),
        ),
        "screening": (
            80,
            number("ticket_price", 5, 24),
            number("visitors", 4, 640, 2),
            text("weekday", "Monday, Friday, Saturday, Sunday"),
            key("movie", "of"),
            key("cinema", "held in"),
        ),
    },
    "bakery": {
        "baker": (
            20,
            name("name", PEOPLE),
            number("age", 19, 67),
            number("wage", 11, 38),
            text("shift", "morning, evening, night"),
        ),
        "product": (
            44,
            name("name", two("Honey Almond Rye Cherry Cocoa Lemon", "Loaf Tart Roll Muffin Cake Cookie Pie Bun")),
            text("category", "bread, cake, pastry, snack"),
            number("price", 1, 46),
            number("calories", 80, 760, 10),
            key("baker", "made by"),
        ),
        "sale": (
            70,
            number("quantity", 1, 60),
            number("discount", 0, 40, 5),
            text("payment", "cash, card, voucher"),
            key("product", "of"),
        ),
    },
    "harbor": {
        "captain": (
            20,
            name("name", PEOPLE),
            text("nationality", "Greek, Danish, Irish, Turkish, Cuban"),
            number("age", 29, 70),
        ),
        "ship": (
            40,
            name(
                "name", two("Iron Silver Brave Ocean Eastern Proud", "Duchess Pioneer Gull Anchor Comet Voyager Pearl")
            ),
            text("type", "tanker, ferry, trawler, yacht, freighter"),
            number("length", 18, 390),
            number("speed", 8, 42),
            number("build_year", 1961, 2022, 1, BUILT),
            key("captain", "commanded by"),
        ),
        "voyage": (
            64,
            text("destination", CITIES, "to {}"),
            number("days_at_sea", 1, 60),
            number("cargo_tons", 10, 9900, 10),
            key("ship", "of"),
        ),
    },
    "fitness_club": {
        "trainer": (
            18,
            name("name", PEOPLE),
            text("specialty", "yoga, boxing, swimming, cycling, pilates"),
            number("hourly_rate", 18, 95),
        ),
        "member": (
            44,
            name("name", PEOPLE),
            number("age", 16, 74),
            text("membership", "basic, silver, gold, student"),
            number("height", 148, 204),
            text("city", CITIES, FROM),
        ),
        "session": (
            80,
            number("minutes", 20, 120, 5),
            number("calories_burned", 80, 990, 10),
            text("room", "Atlas, Orion, Vega, Zenith"),
            key("trainer", "led by"),
            key("member", "booked by"),
        ),
    },
    "hotel": {
        "hotel": (
            20,
            name("name", two("Grand Alpine Harbor Garden Crown", "Inn Lodge Palace Retreat")),
            text("city", CITIES, IN),
            number("stars", 1, 5),
            number("room_count", 12, 420, 2),
        ),
        "guest": (40, name("name", PEOPLE), text("country", COUNTRIES, FROM), number("age", 18, 82)),
        "booking": (
            80,
            number("nights", 1, 21),
            number("price", 80, 4900, 10),
            text("board", "breakfast, half, full"),
            key("hotel", "at"),
            key("guest", "made by"),
        ),
    },
    "theatre": {
        "actor": (
            26,
            name("name", PEOPLE),
            number("age", 18, 79),
            text("hometown", CITIES, FROM),
            number("awards", 0, 19),
        ),
        "play": (
            30,
            name("title", two("Last Secret Crooked Silver Forgotten", "Crown Promise Stranger Banquet Shadow Garden")),
            text("genre", "tragedy, comedy, musical, satire"),
            number("acts", 1, 6),
            number(
                "premiere_year",
                1895,
                2022,
                1,
                ("that premiered after {}", "that premiered before {}", "newest", "oldest"),
            ),
        ),
        "role": (
            80,
            name("character", "King Queen Ghost Servant Soldier Merchant Doctor Judge Sailor Witch Poet Thief".split()),
            number("spoken_lines", 4, 390),
            text("importance", "lead, supporting, minor"),
            key("actor", "played by"),
            key("play", "in"),
        ),
    },
    "lighthouse": {
        "keeper": (
            20,
            name("name", PEOPLE),
            number("age", 25, 71),
            text("country", COUNTRIES, FROM),
            number("salary", 21000, 58000, 500),
        ),
        "lighthouse": (
            40,
            name("name", two("White Storm Raven Coral Seal Lonely", "Rock Head Cape Reef Tower Point Beacon")),
            text("coast", "west, east, north, gulf"),
            number("height", 9, 84),
            number("light_range", 6, 44),
            number("build_year", 1790, 1968, 1, BUILT),
            key("keeper", "kept by"),
        ),
        "inspection": (
            60,
            number("year", 1995, 2023),
            text("result", "good, fair, poor"),
            number("repair_cost", 0, 9800, 100),
            key("lighthouse", "of"),
        ),
    },
    "film_festival": {
        "festival": (
            18,
            name("name", two("Golden Aurora Lantern Summit Coastline", "Days Lights Reel Week")),
            text("city", CITIES, IN),
            number("founding_year", 1932, 2018, 1, FOUNDED),
            number("visitor_count", 900, 88000, 100),
        ),
        "film": (
            40,
            name(
                "title",
                two("Amber Hollow Northern Second Glass", "Tide Echo Passage Sparrow Machine Harvest Lantern Orbit"),
            ),
            text("language", "Korean, French, Arabic, English, Hindi"),
            number("length", 12, 188),
            number("budget", 10, 9400, 10),
        ),
        "nomination": (
            64,
            text("category", "best picture, best sound, best script, best actor"),
            number("votes", 3, 410),
            text("outcome", "won, lost"),
            key("film", "of"),
            key("festival", "announced at"),
        ),
    },
}


def _table(label, specs):
    """The table, and what its columns are drawn from (None for its id; a key's parent)."""
    identity, _, words = label.partition(": ")
    singular, _, many = words.partition(", ")
    columns, sources = [Column(f"{identity}_id", "id")], [None]
    for spec in specs:
        if len(spec) == 3:
            columns.append(Column(spec[2], "key"))
            sources.append(spec[0])
        else:
            columns.append(dataclasses.replace(spec[0]))
            sources.append(spec[1])
    return Table(identity, columns, singular, many), sources


def _values(rng, source, count, parents):
    if isinstance(source, str):
        return [rng.between(1, parents[source]) for _ in range(count)]
    if source.pool == PEOPLE:
        return rng.sample([f"{first} {last}" for first in FIRST for last in LAST], count)
    if source.pool:
        return [rng.choice(source.pool) for _ in range(count)]
    steps = (source.high - source.low) // source.step
    return [source.low + source.step * rng.between(0, steps) for _ in range(count)]


def _names(rng, source, column, count):
    """Names, all different where the pool has enough of them; codes are numbered."""
    if source.pool != PEOPLE and len(source.pool) >= count:
        return rng.sample(source.pool, count)
    if column.name.endswith("code"):
        return [f"{rng.choice(source.pool)}{number}" for number in rng.sample(range(100, 999), count)]
    return _values(rng, source, count, {})


def build(db_id, rng):
    """The schema of one database, its columns' values filled in, and {table name: rows}."""
    tables, links, rows, counts = [], [], {}, {}
    for label, (count, *specs) in DOMAINS[db_id].items():
        table, sources = _table(label, specs)
        filled = [list(range(1, count + 1))]
        for spec, column, source in zip(specs, table.columns[1:], sources[1:]):
            draw_names = column.kind == "name"
            filled.append(_names(rng, source, column, count) if draw_names else _values(rng, source, count, counts))
            if column.kind == "key":
                links.append(Link(table, next(t for t in tables if t.name == spec[0]), column, spec[1]))
            else:
                column.values = tuple(sorted(set(filled[-1])))
        tables.append(table)
        counts[table.name] = count
        rows[table.name] = list(zip(*filled))
    return Schema(db_id, tables, links), rows
