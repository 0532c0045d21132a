/* PTX text to instructions. */
#include "ptx_parts.h"
#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static __thread const char *wrong;
static __thread char said[256];

static void *refuse(const char *what, const char *word) {
    snprintf(said, sizeof said, "%s: %s", what, word);
    return (void *)(wrong = said), NULL;
}

static int is_name(int c) { return isalnum(c) || c == '_' || c == '$' || c == '%'; }

static char *copied(const char *from, size_t length) { return strndup(from, length); }

static char *without_comments(const char *text) {
    char *plain = strdup(text), *p = plain;
    while (*p) {
        char *end = p;
        if (!strncmp(p, "//", 2)) end = p + strcspn(p, "\n");
        if (!strncmp(p, "/*", 2)) end = strstr(p + 2, "*/") ? strstr(p + 2, "*/") + 2 : p + strlen(p);
        if (end == p) p++;
        while (p < end) *p++ = ' ';
    }
    return plain;
}

static unsigned bytes_of(const char *type) {
    const char *digits = type + strcspn(type, "0123456789");
    return !strcmp(type, "pred") ? 1 : (unsigned)atoi(digits) / 8;
}

/* A declaration `.align N .b8 name[count]` or `.u32 name`, and its place after what `*total` holds. */
static struct place *declared(struct place **list, const char *p, const char *end, size_t *total) {
    unsigned each = 0, align = 0;
    const char *name = 0, *count = 0;
    size_t length = 0;
    while (p < end && *p != '=') {
        if (*p == '.' && !strncmp(p, ".align", 6)) {
            align = (unsigned)strtoul(p + 6, (char **)&p, 10);
        } else if (*p == '.') {
            const char *word = ++p;
            while (p < end && isalnum(*p)) p++;
            char type[16] = "";
            memcpy(type, word, (size_t)(p - word) < 15 ? (size_t)(p - word) : 15);
            if (isdigit(type[1])) each = bytes_of(type);
        } else if (is_name(*p)) {
            for (name = p; p < end && is_name(*p);) p++;
            length = (size_t)(p - name);
        } else if (*p == '[') {
            count = ++p;
            while (p < end && *p != ']') p++;
        } else {
            p++;
        }
    }
    if (!name || !each) return refuse("a declaration", copied(name ? name : "?", name ? length : 1));
    struct place *made = calloc(1, sizeof *made);
    if (!align) align = each;
    made->name = copied(name, length);
    made->bytes = each * (count ? strtoul(count, 0, 10) : 1);
    made->at = *total = (*total + align - 1) / align * align;
    *total += made->bytes;
    if (count && !made->bytes) made->at = DYNAMIC; /* it is as long as the launch says */
    while (*list) list = &(*list)->next;
    return *list = made;
}

static struct place *place_named(struct place *list, const char *name) {
    while (list && strcmp(list->name, name)) list = list->next;
    return list;
}

static int register_named(struct ptx_kernel *k, const char *name) {
    for (unsigned i = 0; i < k->registers; i++)
        if (!strcmp(k->names[i], name)) return (int)i;
    k->names = realloc(k->names, (k->registers + 1) * sizeof *k->names);
    k->names[k->registers] = strdup(name);
    return (int)k->registers++;
}

static const char *const specials[] = {"%tid.x", "%tid.y", "%tid.z", "%ntid.x", "%ntid.y", "%ntid.z",
    "%ctaid.x", "%ctaid.y", "%ctaid.z", "%nctaid.x", "%nctaid.y", "%nctaid.z", "%laneid", "%warpid",
    "%globaltimer", 0};

static int operand(struct ptx_module *m, struct ptx_kernel *k, char *word, struct operand *o) {
    while (isspace(*word)) word++;
    for (char *end = word + strlen(word); end > word && isspace(end[-1]);) *--end = 0;
    if (*word == '[') {
        word[strcspn(word, "]")] = 0;
        if (!operand(m, k, word + 1, o)) return 0;
        return o->memory = 1;
    }
    if (*word == '-' || isdigit(*word)) {
        o->kind = NUMBER;
        if (!strncmp(word, "0f", 2)) return o->value = strtoull(word + 2, 0, 16), 1;
        return o->value = (uint64_t)(*word == '-' ? strtoll(word, 0, 0) : (long long)strtoull(word, 0, 0)), 1;
    }
    char *plus = word + strcspn(word, "+");
    if (*plus) *plus++ = 0, o->offset = strtoll(plus, 0, 0);
    while (plus > word && isspace(plus[-1])) *--plus = 0;
    for (int i = 0; specials[i]; i++)
        if (!strcmp(word, specials[i])) return o->kind = SPECIAL, o->value = (uint64_t)i, 1;
    struct place *found;
    if ((found = place_named(k->parameters, word)))
        return o->kind = PARAMETER, o->value = found->at, 1;
    if ((found = place_named(k->shared, word)) || (found = place_named(m->shared, word)))
        return o->kind = SHARED, o->value = found->at, 1;
    if ((found = place_named(m->globals, word)))
        return o->kind = NUMBER, o->value = (uint64_t)(uintptr_t)m->memory + found->at, 1;
    if (*word == '%') return o->kind = REGISTER, o->value = (uint64_t)register_named(k, word), 1;
    return o->kind = LABEL, o->label = strdup(word), 1;
}

static int instruction(struct ptx_module *m, struct ptx_kernel *k, char *text) {
    while (isspace(*text)) text++;
    if (!*text || !strncmp(text, ".loc", 4) || !strncmp(text, ".pragma", 7)) return 1;
    if (!strncmp(text, ".reg", 4)) return 1;
    if (!strncmp(text, ".shared", 7))
        return declared(&k->shared, text + 7, text + strlen(text), &k->shared_bytes) != 0;
    k->code = realloc(k->code, (k->length + 1) * sizeof *k->code);
    struct instruction *i = &k->code[k->length++];
    memset(i, 0, sizeof *i);
    i->guard = -1;
    if (*text == '@') {
        i->inverted = *++text == '!';
        char *name = text + i->inverted;
        size_t length = strcspn(name, " \t\n");
        text = name + length;
        if (*text) *text++ = 0;
        i->guard = register_named(k, name);
        while (isspace(*text)) text++;
    }
    char *end = text + strcspn(text, " \t\n");
    char *rest = *end ? end + 1 : end;
    *end = 0;
    i->words = strdup(text);
    for (char *p = i->words, *dot; p && i->parts < PARTS; p = dot) {
        if ((dot = strchr(p, '.'))) *dot++ = 0;
        i->part[i->parts++] = p;
    }
    const char *type = i->part[i->parts - 1];
    i->bytes = bytes_of(type), i->is_signed = *type == 's', i->is_float = *type == 'f';
    while (*rest && i->count < OPERANDS) {
        while (isspace(*rest)) rest++;
        size_t length = 0;
        for (int depth = 0; rest[length] && (depth || rest[length] != ','); length++)
            depth += (rest[length] == '[') - (rest[length] == ']');
        char *word = copied(rest, length);
        int good = !length || operand(m, k, word, &i->operand[i->count]);
        free(word);
        if (!good) return 0;
        i->count += length > 0;
        rest += rest[length] ? length + 1 : length;
    }
    return 1;
}

/* Words that end at `;`, and labels before them. Braces inside a body are not known here. */
static int body(struct ptx_module *m, struct ptx_kernel *k, const char *p, const char *end) {
    while (p < end) {
        while (p < end && isspace(*p)) p++;
        const char *word = p;
        while (p < end && is_name(*p)) p++;
        if (p > word && p < end && *p == ':') {
            k->labels = realloc(k->labels, (k->label_count + 1) * sizeof *k->labels);
            k->labels[k->label_count++] = (struct label){copied(word, (size_t)(p - word)), k->length};
            p++;
            continue;
        }
        const char *stop = memchr(word, ';', (size_t)(end - word));
        if (!stop) break;
        char *text = copied(word, (size_t)(stop - word));
        int good = !strpbrk(text, "{}") && instruction(m, k, text);
        if (!good && !wrong) refuse("an instruction", text);
        free(text);
        if (!good) return 0;
        p = stop + 1;
    }
    for (unsigned n = 0; n < k->length; n++)
        for (unsigned o = 0; o < k->code[n].count; o++) {
            struct operand *it = &k->code[n].operand[o];
            unsigned l = 0;
            if (it->kind != LABEL) continue;
            while (l < k->label_count && strcmp(k->labels[l].name, it->label)) l++;
            if (l == k->label_count) return refuse("no such label", it->label) != 0;
            it->value = k->labels[l].at;
        }
    return 1;
}

static const char *closing(const char *p, char open, char close) {
    for (int depth = 0; *p; p++) {
        depth += (*p == open) - (*p == close);
        if (!depth) return p;
    }
    return p;
}

static const char *entry(struct ptx_module *m, const char *p) {
    struct ptx_kernel *k = calloc(1, sizeof *k);
    k->shared_bytes = m->shared_bytes;
    k->module = m, k->next = m->kernels, m->kernels = k;
    while (isspace(*p)) p++;
    const char *name = p;
    while (is_name(*p)) p++;
    k->name = copied(name, (size_t)(p - name));
    while (isspace(*p)) p++;
    if (*p == '(') {
        const char *end = closing(p++, '(', ')');
        while (p < end) {
            size_t length = strcspn(p, ",)");
            if (memchr(p, '.', length)) {
                struct place *made = declared(&k->parameters, p + strspn(p, " \t\n") + 6, p + length, &k->values_bytes);
                if (!made) return 0;
            }
            p += length + 1;
        }
        p = end + 1;
    }
    p += strcspn(p, "{");
    const char *end = closing(p, '{', '}');
    return body(m, k, p + 1, end) ? end + 1 : 0;
}

struct ptx_module *ptx_load(const char *text) {
    struct ptx_module *m = calloc(1, sizeof *m);
    char *plain = without_comments(text);
    const char *p = plain;
    wrong = 0;
    m->memory = calloc(1, 1 << 16);
    while (p && *p) {
        size_t length = strcspn(p, ";{(");
        const char *found = memmem(p, length, ".entry", 6), *space;
        if (found) {
            p = entry(m, found + 6);
        } else if ((space = memmem(p, length, ".shared", 7))) {
            if (!declared(&m->shared, space + 7, p + length, &m->shared_bytes)) p = 0;
        } else if ((space = memmem(p, length, ".global", 7))) {
            size_t before = m->global_bytes;
            struct place *made = declared(&m->globals, space + 7, p + length, &m->global_bytes);
            const char *value = memchr(p, '=', length);
            if (made && value) *(uint32_t *)(m->memory + made->at) = (uint32_t)strtoul(value + 1, 0, 0);
            if (!made || before > 65000) p = 0;
        }
        if (p && !found) p += length + (p[length] != 0);
    }
    free(plain);
    if (p && !wrong) return m;
    return fprintf(stderr, "stand-in: PTX that is not known here: %s\n", wrong ? wrong : "?"), NULL;
}

struct ptx_kernel *ptx_kernel(struct ptx_module *m, const char *name) {
    struct ptx_kernel *k = m->kernels;
    while (k && strcmp(k->name, name)) k = k->next;
    return k;
}
void *ptx_global(struct ptx_module *m, const char *name, size_t *bytes) {
    struct place *found = place_named(m->globals, name);
    return found ? (*bytes = found->bytes, m->memory + found->at) : 0;
}
int ptx_parameter(const struct ptx_kernel *k, size_t number, size_t *at, size_t *bytes) {
    struct place *p = k->parameters;
    while (p && number--) p = p->next;
    return p ? (*at = p->at, *bytes = p->bytes, 1) : 0;
}
size_t ptx_values_bytes(const struct ptx_kernel *k) { return k->values_bytes; }
