//! What all pages have in common.

use maud::{DOCTYPE, Markup, html};

/// The pages that the head leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tab {
    Cluster,
    Entity,
}

/// A whole page. One that is live is reloaded where there is no script.
pub(super) fn page(title: &str, tab: Option<Tab>, live: bool, content: &Markup) -> Markup {
    let link = |this: Tab, to: &str, text: &str| {
        let current = (tab == Some(this)).then_some("page");
        html! { a href=(to) aria-current=[current] { (text) } }
    };
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) " · Perennial" }
                link rel="icon" href="/icon.svg" type="image/svg+xml";
                link rel="stylesheet" href="/page.css";
                @if live {
                    script src="/page.js" defer {}
                    noscript { meta http-equiv="refresh" content="5"; }
                }
            }
            body {
                a .skip href="#content" { "Skip to the content" }
                header .bar {
                    a .brand href="/" {
                        img src="/icon.svg" alt="" width="26" height="26";
                        "Perennial"
                    }
                    nav aria-label="Pages" {
                        (link(Tab::Cluster, "/", "Cluster"))
                        (link(Tab::Entity, "/entity", "Entities"))
                    }
                    @if live {
                        p #connection .connection role="status" { "live" }
                    }
                }
                main #content { (content) }
            }
        }
    }
}

/// A page that only says something.
pub(super) fn message(title: &str, text: &str) -> Markup {
    let content = html! {
        section .card .message {
            h1 { (title) }
            p { (text) }
        }
    };
    page(title, None, false, &content)
}

/// A named figure; with words for what it means in a moment of trouble.
pub(super) fn tile(name: &str, value: &str, note: &Markup, alarming: bool) -> Markup {
    let class = if alarming { "tile alarming" } else { "tile" };
    html! {
        div class=(class) {
            dt { (name) }
            dd {
                span .value { (value) }
                span .note { (note) }
            }
        }
    }
}
