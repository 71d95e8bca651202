use super::*;

fn rules(text: &str) -> Rules {
    Rules::parse(text).unwrap()
}

fn token(subject: &str, groups: &[&str]) -> Identity {
    Identity {
        proof: Proof::Token {
            subject: subject.into(),
            groups: groups.iter().map(|group| (*group).to_owned()).collect(),
        },
        expires: None,
    }
}

fn certificate(names: &[&str]) -> Identity {
    Identity::of_certificate(names.iter().map(|name| (*name).to_owned()).collect())
}

/// Rights for the types "cart" and "order" as letters: send, read and events in capitals
/// for "cart", in small ones for "order"; T for status, A for admin.
fn granted(rules: &Rules, identity: &Identity) -> String {
    let grants = rules.grants(identity);
    let mut letters = String::new();
    for (entity_type, names) in [("cart", "SRE"), ("order", "sre")] {
        for (right, letter) in Right::ALL.into_iter().zip(names.chars()) {
            if grants.allow(right, entity_type) {
                letters.push(letter);
            }
        }
    }
    for (right, letter) in [(Right::Status, 'T'), (Right::Admin, 'A')] {
        if grants.allow(right, "") {
            letters.push(letter);
        }
    }
    letters
}

#[test]
fn what_no_rule_allows_is_denied() {
    let shop = rules(
        r#"[
        { subject = "orders-service", entity_types = ["cart", "order"], allow = ["send", "read", "events"] },
        { subject = "report-*", entity_types = ["*"], allow = ["read"] },
        { subject = "report-events", entity_types = ["car*"], allow = ["events"] },
        { group = "operators", allow = ["admin"] },
        { group = "team-*", allow = ["status"] },
        { certificate = "spiffe://shop/orders", entity_types = ["order"], allow = ["send"] },
        { certificate = "spiffe://shop/*", entity_types = ["cart"], allow = ["read"] },
    ]"#,
    );
    for (identity, expected) in [
        (token("orders-service", &[]), "SREsre"),
        (token("orders-service2", &[]), ""),
        (token("orders", &[]), ""),
        (token("Orders-service", &[]), ""),
        (token("report-", &[]), "Rr"),
        (token("report-events", &[]), "REr"),
        (token("report", &[]), ""),
        (token("*", &[]), ""),
        (token("ada", &["operators"]), "TA"),
        (token("ada", &["team-red", "operators"]), "TA"),
        (token("ada", &["team-red"]), "T"),
        (token("ada", &["operators2"]), ""),
        // Names of one kind are not those of another.
        (token("operators", &[]), ""),
        (token("x", &["orders-service"]), ""),
        (token("spiffe://shop/orders", &["spiffe://shop/orders"]), ""),
        (certificate(&["orders-service", "operators"]), ""),
        (certificate(&["spiffe://shop/orders"]), "Rs"),
        (certificate(&["shop.example", "spiffe://shop/x"]), "R"),
        (certificate(&[]), ""),
        (Identity::anonymous(), ""),
    ] {
        assert_eq!(granted(&shop, &identity), expected, "{identity:?}");
    }
    assert_eq!(
        granted(&Rules::NONE, &token("orders-service", &["operators"])),
        ""
    );
}

#[test]
fn an_admin_sees_nothing_of_what_entities_hold() {
    let admins = rules(r#"[{ subject = "*", allow = ["admin"] }]"#);
    assert_eq!(granted(&admins, &token("anybody", &[])), "TA");
    let whole = Grants::all();
    assert!(
        Right::ALL
            .into_iter()
            .all(|right| whole.allow(right, "cart") && whole.allow_somewhere(right))
    );
}

#[test]
fn a_right_for_something_is_one_somewhere() {
    let cart = rules(r#"[{ subject = "a", entity_types = ["cart"], allow = ["send"] }]"#);
    let grants = cart.grants(&token("a", &[]));
    let somewhere = Right::ALL.map(|right| grants.allow_somewhere(right));
    assert_eq!(somewhere, [true, false, false, false, false]);
    assert!(!grants.allow(Right::Send, "") && !grants.allow(Right::Send, "cart2"));
}

#[test]
fn a_rule_that_is_wrong_is_named() {
    for (text, said) in [
        (
            r#"[{ allow = ["admin"] }]"#,
            "one of subject, group and certificate",
        ),
        (
            r#"[{ subject = "a", group = "b", allow = ["admin"] }]"#,
            "one of subject",
        ),
        (r#"[{ subject = "", allow = ["admin"] }]"#, "neither a name"),
        (r#"[{ subject = "a*b", allow = ["admin"] }]"#, "\"a*b\""),
        (r#"[{ subject = "**", allow = ["admin"] }]"#, "\"**\""),
        (r#"[{ subject = "a", allow = [] }]"#, "allows nothing"),
        (
            r#"[{ subject = "a", allow = ["send"] }]"#,
            "need entity_types",
        ),
        (
            r#"[{ subject = "a", entity_types = [], allow = ["send"] }]"#,
            "need entity_types",
        ),
        (
            r#"[{ subject = "a", entity_types = ["cart"], allow = ["send", "admin"] }]"#,
            "in a rule of its own",
        ),
        (
            r#"[{ subject = "a", entity_types = ["cart"], allow = ["status"] }]"#,
            "whole cluster",
        ),
        (r#"[{ subject = "a", allow = ["fly"] }]"#, "fly"),
        (r#"[{ subject = "a", allow = ["Admin"] }]"#, "Admin"),
        (r#"[{ subject = "a", allow = "admin" }]"#, "sequence"),
        (
            r#"[{ subject = "a", deny = ["send"], allow = ["admin"] }]"#,
            "deny",
        ),
        (r#"[{ subject = "a" }]"#, "allow"),
        ("[]\nother = 1", "other"),
        ("", ""),
        ("{}", ""),
    ] {
        let error = Rules::parse(text).unwrap_err().to_string();
        assert!(error.contains(said), "{text}: {error}");
    }
    let second = r#"[{ subject = "a", allow = ["admin"] }, { subject = "b", allow = [] }]"#;
    assert!(
        Rules::parse(second)
            .unwrap_err()
            .to_string()
            .starts_with("rule 2")
    );
    let many = vec![r#"{ subject = "a", allow = ["admin"] }"#; RULES_MAX + 1].join(",");
    assert!(Rules::parse(&format!("[{many}]")).is_err());
}
