/* The prologue of device/prologue.py, put into a PTX module as it is loaded: the same text comes out
 * here as there. What is said of its words is generated from there at build. */
#include "shim.h"
#include "prologue.h"
#include <ctype.h>

struct text { char *at; size_t length, room; };

static void add(struct text *out, const char *from, size_t length) {
    if (!out->at) return;
    if (out->length + length + 1 > out->room) {
        char *more = realloc(out->at, out->room = 2 * (out->length + length) + 4096);
        if (!more) free(out->at);
        if (!(out->at = more)) return;
    }
    memcpy(out->at + out->length, from, length);
    out->at[out->length += length] = 0;
}
static void say_in(struct text *out, const char *words) { add(out, words, strlen(words)); }

/* Comments and strings made spaces, so that every character stays in its place. */
static char *blanked(const char *source) {
    char *plain = strdup(source);
    for (char *p = plain; p && *p;) {
        char *end = p;
        if (!strncmp(p, "//", 2)) {
            end += strcspn(p, "\n");
        } else if (!strncmp(p, "/*", 2) && strstr(p + 2, "*/")) {
            end = strstr(p + 2, "*/") + 2;
        } else if (*p == '"') {
            for (end++; *end && *end != '"'; end++)
                if (*end == '\\' && end[1]) end++;
            end = *end ? end + 1 : p;
        }
        if (end == p) p++;
        while (p < end) *p++ = ' ';
    }
    return plain;
}

static int is_word(int c) { return isalnum(c) || c == '_' || c == '$'; }

static int refused(const char *p, const char *end) {
    while (p < end) {
        size_t length = 0;
        while (p + length < end && (is_word(p[length]) || p[length] == '.' || p[length] == '%')) length++;
        for (size_t i = 0; length && i < sizeof refusals / sizeof *refusals; i++) {
            const char *unless = refusals[i].unless;
            if (strncmp(p, refusals[i].begins, strlen(refusals[i].begins))) continue;
            if (!*unless || !memmem(p, length, unless, strlen(unless))) return 1;
        }
        p += length ? length : 1;
    }
    return 0;
}

static const char *closing(const char *p, char open, char close) {
    for (int depth = 0; *p; p++) {
        depth += (*p == open) - (*p == close);
        if (!depth) return p;
    }
    return p;
}

static const char *after_number(const char *plain, const char *word) {
    const char *p = strstr(plain, word);
    if (!p) return 0;
    for (p += strlen(word); isspace(*p);) p++;
    const char *digits = p;
    while (isdigit(*p)) p++;
    return p > digits ? p : 0;
}

static int young_enough(const char *plain) {
    const char *version = strstr(plain, ".version"), *target = strstr(plain, ".target");
    int major = 0, sm = 0;
    if (!version || sscanf(version, ".version %d", &major) != 1 || major < 6) return 0;
    return target && sscanf(target, ".target sm_%d", &sm) == 1 && sm >= 70;
}

static void put_prologue(struct text *out, const char *name, size_t length, int number) {
    char digits[16];
    snprintf(digits, sizeof digits, "%d", number);
    for (const char *p = prologue_text; *p;) {
        size_t plain = strcspn(p, "{");
        add(out, p, plain);
        p += plain;
        if (!strncmp(p, "{ticket}", 8)) {
            add(out, name, length), say_in(out, TICKET), p += 8;
        } else if (!strncmp(p, "{number}", 8)) {
            say_in(out, digits), p += 8;
        } else if (*p) {
            add(out, p++, 1);
        }
    }
}

/* One kernel from `.entry` on: copy up to the prologue, and say where to go on; null: no body. */
static const char *walk(const char *source, const char *plain, const char *entry, const char **copied,
                        int number, struct text *out, struct text *marks) {
    const char *name = entry + strlen(".entry");
    while (isspace(*name)) name++;
    size_t length = 0;
    if (is_word(*name) ? !isdigit(*name) : *name == '%')
        for (length = 1; is_word(name[length]);) length++;
    const char *opened = name + length;
    while (isspace(*opened)) opened++;
    const char *closed = *opened == '(' ? closing(opened, '(', ')') : opened;
    const char *body = closed + strcspn(closed, "{;");
    if (!length || *body != '{') return 0; /* declared only */
    const char *end = closing(body++, '{', '}');
    if (refused(entry, end)) return end;
    int listed = *opened == '(', any = 0;
    for (const char *p = opened + 1; listed && p < closed; p++) any |= !isspace(*p);
    add(out, source + (*copied - plain), (size_t)(closed - *copied));
    say_in(out, any ? "\n," : listed ? "\n" : "\n("); /* a line may end in a comment */
    say_in(out, "\t.param .u64 "), add(out, name, length), say_in(out, TICKET "\n");
    say_in(out, listed ? "" : ")");
    add(out, source + (closed - plain), (size_t)(body - closed));
    put_prologue(out, name, length, number);
    say_in(marks, "\n.visible .global .align 4 .u32 "), add(marks, name, length);
    say_in(marks, YIELDS " = 1;");
    *copied = body;
    return end;
}

char *with_prologue(const char *source) {
    char *plain = blanked(source);
    struct text out = {calloc(1, 1), 0, 1}, marks = {calloc(1, 1), 0, 1}, all = {calloc(1, 1), 0, 1};
    const char *copied = plain, *at = plain;
    for (int number = 0; plain && young_enough(plain) && (at = strstr(at, ".entry"));) {
        const char *next = isspace(at[6]) ? walk(source, plain, at, &copied, number, &out, &marks) : 0;
        if (next) number++;
        at = next ? next : at + 6;
    }
    if (plain) say_in(&out, source + (copied - plain));
    if (plain && out.at && marks.at && marks.length) {
        char *fresh = blanked(out.at);
        const char *place = fresh ? after_number(fresh, ".address_size") : 0;
        if (fresh && !place && (place = strstr(fresh, ".target"))) place += strcspn(place, "\n");
        size_t before = place ? (size_t)(place - fresh) : 0;
        add(&all, out.at, before);
        say_in(&all, marks.at);
        say_in(&all, out.at + before);
        free(fresh);
    }
    free(plain), free(out.at), free(marks.at);
    if (all.at && all.length) return all.at;
    return free(all.at), NULL;
}

/* For tests: the text, or nothing where no kernel of it yields. */
API const char *singularity_inject(const char *source) {
    static __thread char *kept;
    free(kept);
    return kept = with_prologue(source);
}
