#include "json_string.h"

#include <string.h>

forerun_status fr_json_broken(const fr_reader *in, const char *problem) {
    size_t line = 1;
    for (size_t i = 0; i < in->at && i < in->length; i++)
        line += in->text[i] == '\n';
    return fr_fail(in->error, FORERUN_BUNDLE_ERROR, "%s is not valid JSON: %s at line %zu, byte %zu. Build it again.",
                   in->what, problem, line, in->at);
}

int fr_json_peek(const fr_reader *in) {
    return in->at < in->length ? (unsigned char)in->text[in->at] : -1;
}

bool fr_json_take(fr_reader *in, const char *word) {
    size_t length = strlen(word);
    if (in->length - in->at < length || memcmp(in->text + in->at, word, length) != 0)
        return false;
    in->at += length;
    return true;
}

/* Length of the well-formed UTF-8 character at `in` (Unicode table 3-7), 0 where there is none. */
static size_t utf8_length(const fr_reader *in) {
    const unsigned char *s = (const unsigned char *)in->text + in->at;
    size_t left = in->length - in->at;
    if (s[0] < 0x80)
        return 1;
    size_t n = s[0] >= 0xC2 && s[0] <= 0xDF ? 2 : (s[0] & 0xF0) == 0xE0 ? 3 : s[0] >= 0xF0 && s[0] <= 0xF4 ? 4 : 0;
    if (n == 0 || left < n)
        return 0;
    for (size_t i = 1; i < n; i++)
        if ((s[i] & 0xC0) != 0x80)
            return 0;
    bool overlong = (s[0] == 0xE0 && s[1] < 0xA0) || (s[0] == 0xF0 && s[1] < 0x90);
    bool surrogate_or_beyond = (s[0] == 0xED && s[1] > 0x9F) || (s[0] == 0xF4 && s[1] > 0x8F);
    return overlong || surrogate_or_beyond ? 0 : n;
}

static bool take_hex4(fr_reader *in, uint32_t *out) {
    uint32_t value = 0;
    for (int i = 0; i < 4; i++) {
        int c = fr_json_peek(in);
        int digit = c >= '0' && c <= '9'   ? c - '0'
                    : c >= 'a' && c <= 'f' ? c - 'a' + 10
                    : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                           : -1;
        if (digit < 0)
            return false;
        value = value * 16 + (uint32_t)digit;
        in->at++;
    }
    *out = value;
    return true;
}

static size_t put_utf8(char *out, uint32_t c) {
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    size_t n = c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    static const unsigned char lead[5] = {0, 0, 0xC0, 0xE0, 0xF0};
    for (size_t i = n - 1; i > 0; i--, c >>= 6)
        out[i] = (char)(0x80 | (c & 0x3F));
    out[0] = (char)(lead[n] | c);
    return n;
}

/* One escape, the backslash already consumed. Writes at most 4 bytes: never more than the escape is long. */
static size_t take_escape(fr_reader *in, char *out) {
    static const char from[] = "\"\\/bfnrt";
    static const char to[] = "\"\\/\b\f\n\r\t";
    int c = fr_json_peek(in);
    if (c < 0)
        return 0;
    in->at++;
    const char *simple = c == 0 ? NULL : strchr(from, c);
    if (simple != NULL) {
        out[0] = to[simple - from];
        return 1;
    }
    uint32_t code, low;
    if (c != 'u' || !take_hex4(in, &code) || code == 0 || (code >= 0xDC00 && code <= 0xDFFF))
        return 0;
    if (code >= 0xD800 && code <= 0xDBFF) {
        if (!fr_json_take(in, "\\u") || !take_hex4(in, &low) || low < 0xDC00 || low > 0xDFFF)
            return 0;
        code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
    }
    return put_utf8(out, code);
}

forerun_status fr_json_string(fr_reader *in, const char **out) {
    if (!fr_json_take(in, "\""))
        return fr_json_broken(in, "expected a string");
    size_t end = in->at;
    while (end < in->length && in->text[end] != '"')
        end += in->text[end] == '\\' ? 2 : 1;
    if (end >= in->length)
        return fr_json_broken(in, "a string does not end");
    char *text = fr_arena_take(in->arena, end - in->at + 1, 1);
    if (text == NULL)
        return fr_fail(in->error, FORERUN_OUT_OF_MEMORY, "No memory to read %s.", in->what);
    *out = text;
    while (in->at < end) {
        size_t n;
        if ((unsigned char)in->text[in->at] < 0x20)
            return fr_json_broken(in, "a control character in a string");
        if (fr_json_take(in, "\\")) {
            if ((n = take_escape(in, text)) == 0)
                return fr_json_broken(in, "a bad escape in a string");
        } else {
            if ((n = utf8_length(in)) == 0)
                return fr_json_broken(in, "a string is not UTF-8");
            memcpy(text, in->text + in->at, n);
            in->at += n;
        }
        text += n;
    }
    in->at = end + 1;
    return FORERUN_OK;
}
