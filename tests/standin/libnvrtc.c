/* A stand-in for NVRTC: its programs are PTX already, and what it makes of them is no code of any kind.
 * Compiled with -DLINKED it is a library of a program that is linked with NVRTC. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef LINKED
int nvrtcGetCUBIN(void *program, char *code);
int linked(void *program, char *code) { return nvrtcGetCUBIN(program, code); }
#else
struct program { char *text, code[32]; };

int nvrtcCreateProgram(void **made, const char *text, const char *name, int count, void *h, void *n) {
    static int number;
    struct program *p = calloc(1, sizeof *p);
    p->text = strdup(text);
    snprintf(p->code, sizeof p->code, "\177ELF of program %d", ++number);
    return (void)name, (void)count, (void)h, (void)n, (*made = p), 0;
}
int nvrtcCompileProgram(struct program *p, int count, const char *const *options) {
    return p && count && options ? 0 : 4;
}
int nvrtcGetCUBINSize(struct program *p, size_t *bytes) { return (*bytes = sizeof p->code), 0; }
int nvrtcGetCUBIN(struct program *p, char *code) { return memcpy(code, p->code, sizeof p->code), 0; }
int nvrtcGetPTXSize(struct program *p, size_t *bytes) { return (*bytes = strlen(p->text) + 1), 0; }
int nvrtcGetPTX(struct program *p, char *text) { return strcpy(text, p->text), 0; }
#endif
