//! The life of an activation as a picture, `spec/activation.svg`: the ways between its places are those
//! that the walks have seen; only where they are drawn is written here.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::Leads;
use super::news::News;
use super::table::{Cells, cells, is_written};

/// A box: its name, what is said below it, its middle and its class.
const BOXES: &[(&str, &str, i32, i32, &str)] = &[
    ("preflight", "can it be done", 85, 150, "stage"),
    ("loader", "into a new directory", 235, 150, "stage"),
    ("check", "one after the other", 385, 150, "stage"),
    ("canary", "out of clients' reach", 535, 150, "stage"),
    ("swing", "current moves", 700, 150, "swing"),
    ("stop", "every worker ends", 870, 150, "stage"),
    ("worker", "new ready, old drained", 1040, 150, "stage"),
    ("probation", "all must live", 1195, 150, "stage"),
    ("pointer back", "current first", 1040, 330, "back"),
    ("stop back", "every worker ends", 870, 330, "back"),
    ("worker back", "newest first", 700, 330, "back"),
    ("good", "", 1350, 150, "well"),
    ("unconfirmed", "", 1350, 90, "well"),
    ("pointer-only", "", 700, 50, "well"),
    ("refused", "", 85, 330, "ill"),
    ("superseded", "", 235, 330, "ill"),
    ("failed", "", 385, 330, "ill"),
    ("reverted", "", 535, 330, "ill"),
    ("stuck", "", 700, 460, "stuck"),
];

/// A line: its class, its path, a label with its place, and the ways that it stands for.
type Line = (&'static str, &'static str, (i32, i32, &'static str), &'static [(&'static str, &'static str)]);

const LINES: &[Line] = &[
    ("on", "M150 150H168", (0, 0, ""), &[("preflight", "loader")]),
    ("on", "M300 150H318", (0, 0, ""), &[("loader", "check")]),
    ("on", "M450 150H468", (0, 0, ""), &[("check", "canary")]),
    ("on", "M600 150H633", (0, 0, ""), &[("canary", "swing")]),
    ("on", "M740 124V110Q740 100 750 100H980Q990 100 990 110V122", (0, 0, ""), &[("swing", "worker")]),
    ("on skip", "M765 150H803", (784, 142, "--cold"), &[("swing", "stop")]),
    ("on skip", "M935 150H973", (0, 0, ""), &[("stop", "worker")]),
    ("on", "M1105 150H1128", (0, 0, ""), &[("worker", "probation")]),
    ("on", "M1260 150H1296", (0, 0, ""), &[("probation", "good")]),
    (
        "on",
        "M1240 124V98Q1240 90 1248 90H1296",
        (1310, 64, "to be confirmed"),
        &[("probation", "unconfirmed")],
    ),
    ("on", "M700 124V70", (0, 0, ""), &[("swing", "pointer-only")]),
    ("on", "M360 124V110Q360 100 370 100H400Q410 100 410 110V122", (385, 94, "each"), &[("check", "check")]),
    (
        "on",
        "M1015 124V110Q1015 100 1025 100H1055Q1065 100 1065 110V122",
        (1040, 94, "each"),
        &[("worker", "worker")],
    ),
    (
        "on skip",
        "M85 124V34Q85 24 95 24H1185Q1195 24 1195 34V122",
        (385, 18, "what need not be done is left out"),
        &[
            ("preflight", "check"),
            ("preflight", "swing"),
            ("preflight", "stop"),
            ("preflight", "worker"),
            ("preflight", "probation"),
            ("check", "swing"),
            ("check", "worker"),
            ("canary", "stop"),
            ("canary", "worker"),
        ],
    ),
    ("off", "M85 176V308", (0, 0, ""), &[("preflight", "refused")]),
    (
        "off",
        "M235 176V240M385 176V240M535 176V240M110 176V240M110 240H535M235 240V308",
        (172, 286, "a later rollback"),
        &[
            ("preflight", "superseded"),
            ("loader", "superseded"),
            ("check", "superseded"),
            ("canary", "superseded"),
        ],
    ),
    (
        "off",
        "M385 240V308",
        (350, 286, "fails"),
        &[("preflight", "failed"), ("loader", "failed"), ("check", "failed"), ("canary", "failed")],
    ),
    (
        "off skip",
        "M535 240H980Q990 240 990 250V302",
        (760, 234, "cold start, or an interrupted one"),
        &[
            ("preflight", "pointer back"),
            ("loader", "pointer back"),
            ("check", "pointer back"),
            ("canary", "pointer back"),
        ],
    ),
    (
        "off skip",
        "M1075 176V258M1220 176V250Q1220 258 1212 258H418Q410 258 410 266V308",
        (640, 254, "a start is withdrawn: what runs stays"),
        &[("worker", "failed"), ("probation", "failed")],
    ),
    (
        "off",
        "M720 176V200Q720 208 728 208H1187Q1195 208 1195 200V176M870 176V208M1040 176V302",
        (955, 224, "fails, or a worker dies"),
        &[
            ("swing", "pointer back"),
            ("stop", "pointer back"),
            ("worker", "pointer back"),
            ("probation", "pointer back"),
        ],
    ),
    (
        "off",
        "M1000 356V378Q1000 386 992 386H753Q745 386 745 378V358",
        (0, 0, ""),
        &[("pointer back", "worker back")],
    ),
    ("off skip", "M975 330H937", (956, 322, "--cold"), &[("pointer back", "stop back")]),
    ("off skip", "M805 330H767", (0, 0, ""), &[("stop back", "worker back")]),
    (
        "off",
        "M668 356V378Q668 386 676 386H700Q708 386 708 378V358",
        (688, 402, "each"),
        &[("worker back", "worker back")],
    ),
    ("off", "M635 330H588", (0, 0, ""), &[("worker back", "reverted")]),
    (
        "off skip",
        "M870 304V278M1015 304V286Q1015 278 1007 278H543Q535 278 535 286V308",
        (640, 272, "no worker is to be put back"),
        &[("pointer back", "reverted"), ("stop back", "reverted")],
    ),
    (
        "off skip",
        "M650 356V412Q650 420 642 420H393Q385 420 385 412V352",
        (470, 436, "the pointer had not moved"),
        &[("pointer back", "failed"), ("worker back", "failed")],
    ),
    (
        "lost",
        "M870 356V460M1060 356V450Q1060 460 1050 460H756",
        (950, 480, "it cannot be put back"),
        &[("pointer back", "stuck"), ("stop back", "stuck")],
    ),
    ("lost", "M727 356V438", (0, 0, ""), &[("worker back", "stuck")]),
    (
        "lost skip",
        "M1240 176V490Q1240 500 1230 500H710Q700 500 700 490V482",
        (960, 516, "a start or a repair with no other good generation"),
        &[
            ("preflight", "stuck"),
            ("loader", "stuck"),
            ("check", "stuck"),
            ("canary", "stuck"),
            ("worker", "stuck"),
            ("probation", "stuck"),
        ],
    ),
];

fn leads_to(leads: &Leads) -> Option<&str> {
    match leads {
        Leads::To(place) => Some(place.name()),
        Leads::Ends(verdict) => Some(verdict),
        Leads::Stays | Leads::Again | Leads::Finishes | Leads::Undoes | Leads::GivesUp => None,
    }
}

/// What the next engine does where one was killed, alone or with the machine.
fn after_a_crash(leads: &Leads) -> Option<&str> {
    match leads {
        Leads::Again => Some("again"),
        Leads::Finishes => Some("finish"),
        Leads::Undoes => Some("undo"),
        Leads::GivesUp | Leads::Stays | Leads::To(_) | Leads::Ends(_) => None,
    }
}

/// Every way that was seen, and the news that lead along it.
fn ways(cells: &Cells) -> BTreeMap<(&str, &str), BTreeSet<News>> {
    let mut ways: BTreeMap<_, BTreeSet<News>> = BTreeMap::new();
    for ((place, news), leads) in cells {
        for to in leads.iter().filter_map(leads_to) {
            ways.entry((place.name(), to)).or_default().insert(*news);
        }
    }
    ways
}

const STYLE: &str = "\
svg{background:#fff}text{font:13px system-ui,sans-serif;fill:#1f2933;text-anchor:middle}\
.small{font-size:10.5px;fill:#616e7c}.name{font-weight:600}.left{text-anchor:start}\
rect{fill:#f5f7fa;stroke:#7b8794;stroke-width:1.4}.swing rect{fill:#dbeafe;stroke:#2563eb;stroke-width:2.4}\
.back rect{fill:#fff3e0;stroke:#c2410c}.well rect{fill:#dcfce7;stroke:#15803d}\
.ill rect{fill:#fee2e2;stroke:#b91c1c}.stuck rect{fill:#b91c1c;stroke:#b91c1c}.stuck .name{fill:#fff}\
path{fill:none;stroke-width:1.8}.on path{stroke:#15803d}.off path{stroke:#c2410c}.lost path{stroke:#b91c1c;stroke-width:2.2}\
.skip path{stroke-dasharray:5 4;stroke-width:1.4}.page{fill:#fff;stroke:none}\
#on path{fill:#15803d}#off path{fill:#c2410c}#lost path{fill:#b91c1c}\
@media(prefers-color-scheme:dark){svg{background:#0d1117}.page{fill:#0d1117}text{fill:#e6edf3}.small{fill:#9aa5b1}\
rect{fill:#1c2430;stroke:#7b8794}.swing rect{fill:#132f5c;stroke:#60a5fa}.back rect{fill:#3a2312;stroke:#fb923c}\
.well rect{fill:#0f2f1c;stroke:#4ade80}.ill rect{fill:#3a1518;stroke:#f87171}.stuck rect{fill:#b91c1c;stroke:#f87171}\
.on path{stroke:#4ade80}.off path{stroke:#fb923c}.lost path{stroke:#f87171}\
#on path{fill:#4ade80}#off path{fill:#fb923c}#lost path{fill:#f87171}}";

#[test]
fn a38_the_picture_shows_every_way_that_there_is() {
    let ways = ways(cells());
    let drawn: BTreeSet<_> = LINES.iter().flat_map(|(.., stands_for)| stands_for.iter().copied()).collect();
    let seen: BTreeSet<_> = ways.keys().copied().collect();
    let missing: Vec<_> = seen.difference(&drawn).collect();
    let idle: Vec<_> = drawn.difference(&seen).collect();
    assert!(missing.is_empty() && idle.is_empty(), "not drawn: {missing:?}; never seen: {idle:?}");

    let mut svg = String::from(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 1440 660\" role=\"img\" aria-label=\"The life of an activation\">\n",
    );
    let _ = writeln!(svg, "<style>{STYLE}</style>\n<defs>");
    for class in ["on", "off", "lost"] {
        let _ = writeln!(
            svg,
            "<marker id=\"{class}\" viewBox=\"0 0 8 8\" refX=\"7\" refY=\"4\" markerWidth=\"9\" markerHeight=\"9\" \
             markerUnits=\"userSpaceOnUse\" orient=\"auto\"><path d=\"M0 0L8 4L0 8Z\" style=\"stroke:none\"/></marker>"
        );
    }
    svg.push_str("</defs>\n<rect class=\"page\" width=\"1440\" height=\"660\"/>\n");
    for (class, path, (x, y, label), stands_for) in LINES {
        let _ = writeln!(svg, "<g class=\"{class}\"><title>");
        for way in *stands_for {
            let news: Vec<&str> = ways[way].iter().map(|news| news.name()).collect();
            let _ = writeln!(svg, "{} to {}: {}", way.0, way.1, news.join("; "));
        }
        let marker = class.split(' ').next().expect("a class");
        let _ = write!(svg, "</title><path d=\"{path}\" marker-end=\"url(#{marker})\"/>");
        if !label.is_empty() {
            let _ = write!(svg, "<text class=\"small\" x=\"{x}\" y=\"{y}\">{label}</text>");
        }
        svg.push_str("</g>\n");
    }
    for (name, below, x, y, class) in BOXES {
        let is_verdict = below.is_empty();
        let (w, h, r) = if is_verdict { (104, 36, 18) } else { (130, 52, 6) };
        let _ = write!(
            svg,
            "<g class=\"{class}\"><rect x=\"{}\" y=\"{}\" width=\"{w}\" height=\"{h}\" rx=\"{r}\"/>",
            x - w / 2,
            y - h / 2
        );
        let name_y = if is_verdict { y + 5 } else { y - 3 };
        let _ = write!(svg, "<text class=\"name\" x=\"{x}\" y=\"{name_y}\">{name}</text>");
        if !is_verdict {
            let _ = write!(svg, "<text class=\"small\" x=\"{x}\" y=\"{}\">{below}</text>", y + 15);
        }
        svg.push_str("</g>\n");
    }
    svg.push_str(&legend());
    svg.push_str(&crashes(cells()));
    svg.push_str("</svg>\n");
    is_written("activation.svg", None, &svg);
}

fn legend() -> String {
    let mut legend = String::new();
    for (index, (class, text)) in [
        ("on", "it goes on"),
        ("off", "it fails, its time is up, it is withdrawn, or a rollback takes its place"),
        ("lost", "the way back fails: a person has to look"),
        ("on skip", "only sometimes"),
    ]
    .iter()
    .enumerate()
    {
        let y = 472 + 22 * i32::try_from(index).expect("few");
        let _ = writeln!(
            legend,
            "<g class=\"{class}\"><path d=\"M40 {y}H84\"/><text class=\"small left\" x=\"94\" y=\"{}\">{text}</text></g>",
            y + 4
        );
    }
    legend
}

/// Below the stages: what the next engine does.
fn crashes(cells: &Cells) -> String {
    let mut band = String::new();
    let rows = [
        (
            News::Killed,
            582,
            "where the engine is killed, the next one does this, and on the way back it undoes:",
        ),
        (News::MachineDown, 628, "where the machine goes down:"),
    ];
    for (heard, y, said) in rows {
        let _ = writeln!(band, "<text class=\"left\" x=\"40\" y=\"{y}\">{said}</text>");
        for ((place, news), leads) in cells {
            let stage = BOXES.iter().find(|(name, .., class)| *name == place.name() && *class != "back");
            let words: BTreeSet<&str> = leads.iter().filter_map(after_a_crash).collect();
            if let Some((name, _, x, ..)) = stage.filter(|_| *news == heard && !words.is_empty()) {
                let words = words.into_iter().collect::<Vec<_>>().join(" or ");
                let y = y + 20;
                let _ = writeln!(band, "<text class=\"small\" x=\"{x}\" y=\"{y}\">{name}: {words}</text>");
            }
        }
    }
    band
}
