// The Python extension forerun._core: a thin skin over forerun.h. Nothing is decided here: arguments are passed on,
// results are copied out, and a status becomes forerun.errors.ForerunError. The GIL is released while the core works.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "forerun.h"

namespace nb = nanobind;
using nb::literals::operator""_a;

namespace {

using Ids = nb::ndarray<const int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Table = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

[[noreturn]] void raise(const char *status, const char *message) {
    nb::object type = nb::module_::import_("forerun.errors").attr("ForerunError");
    nb::object error = type(status, nb::steal(PyUnicode_DecodeUTF8(message, std::strlen(message), "replace")));
    PyErr_SetObject(type.ptr(), error.ptr());
    throw nb::python_error();
}

void check(forerun_status status, const forerun_error &error) {
    if (status != FORERUN_OK)
        raise(forerun_status_name(status), error.message);
}

const char *phase_name(forerun_phase phase) {
    return phase == FORERUN_PREFILL ? "prefill" : "decode";
}

nb::object finish_name(forerun_finish finish) {
    switch (finish) {
    case FORERUN_RUNNING:
        return nb::none();
    case FORERUN_STOP:
        return nb::str("stop");
    case FORERUN_LENGTH:
        return nb::str("length");
    case FORERUN_CAPACITY:
        return nb::str("capacity");
    case FORERUN_CANCELLED:
        return nb::str("cancelled");
    }
    raise(forerun_status_name(FORERUN_INVALID_STATE), "the core gave a finish that this extension does not know");
}

forerun_decoding parse_decoding(const std::string &name) {
    if (name == "speculative")
        return FORERUN_SPECULATIVE;
    if (name == "plain")
        return FORERUN_PLAIN;
    if (name == "padded")
        return FORERUN_PADDED;
    raise(forerun_status_name(FORERUN_INVALID_ARGUMENT), "decoding must be 'speculative', 'plain' or 'padded'");
}

template <typename T> nb::tuple to_tuple(const std::vector<T> &values) {
    return nb::tuple(nb::cast(values));
}

// Copies of the core's structs: what they point to lives only until the next call.
struct Facts {
    forerun_facts raw;
    std::string name, target_architecture, drafter_family, backend, backend_version;
    std::vector<int64_t> verify_widths, eos_token_ids;
};

struct Round {
    forerun_round raw;
    std::vector<int64_t> committed, draft_tokens;
    std::vector<float> draft_confidence;
};

const char *text_or_null(const std::string &text) {
    return text.empty() ? nullptr : text.c_str();
}

// A library that runs the graphs of a GPU, in Python. The core calls it on the thread that opened or started.
struct Callbacks {
    nb::object bind, enqueue;
    std::string message;

    // 0, or 1 with the exception's text as `message`: nothing may be thrown through the core.
    template <typename... Arguments> int call(const nb::object &function, Arguments... arguments) noexcept {
        nb::gil_scoped_acquire gil;
        try {
            function(arguments...);
            return 0;
        } catch (nb::python_error &error) {
            message = nb::type_name(error.type()).c_str();
            nb::object text = nb::steal(PyObject_Str(error.value().ptr()));
            const char *bytes = text.is_valid() ? PyUnicode_AsUTF8(text.ptr()) : nullptr;
            if (bytes != nullptr && *bytes != '\0')
                message = bytes;
            PyErr_Clear();
        } catch (const std::exception &error) {
            message = error.what();
        }
        std::replace(message.begin(), message.end(), '\n', ' ');
        return 1;
    }

    static int on_bind(void *user, forerun_graph graph, int64_t width, const char *tensor, uint64_t address) {
        auto *self = static_cast<Callbacks *>(user);
        return self->call(self->bind, graph_name(graph), width, tensor, address);
    }

    static int on_enqueue(void *user, forerun_graph graph, int64_t width, void *stream) {
        auto *self = static_cast<Callbacks *>(user);
        return self->call(self->enqueue, graph_name(graph), width, reinterpret_cast<uintptr_t>(stream));
    }

    static const char *on_message(void *user) {
        return static_cast<Callbacks *>(user)->message.c_str();
    }

    static const char *graph_name(forerun_graph graph) {
        return graph == FORERUN_GRAPH_PLAIN ? "plain" : "round";
    }
};

// Owns one forerun_engine. Calls must not overlap: forerun.rounds.Guard keeps them apart.
class Engine {
  public:
    Engine(const std::string &bundle, const std::string &library, int32_t threads, const std::string &provider,
           const std::string &provider_library, const std::string &engine, int32_t device) {
        forerun_options options{};
        options.struct_size = sizeof options;
        options.onnxruntime_library = library.c_str();
        options.threads = threads;
        options.provider = text_or_null(provider);
        options.provider_library = text_or_null(provider_library);
        options.engine = text_or_null(engine);
        options.device = device;
        forerun_error error{};
        forerun_status status;
        {
            nb::gil_scoped_release release;
            status = forerun_open(bundle.c_str(), &options, &engine_, &error);
        }
        check(status, error);
    }

    Engine(const std::string &bundle, const std::string &engine, const std::string &library, const std::string &version,
           nb::object bind, nb::object enqueue, const std::string &driver, int32_t device)
        : callbacks_(new Callbacks{std::move(bind), std::move(enqueue), ""}) {
        forerun_graphs graphs{};
        graphs.struct_size = sizeof graphs;
        graphs.engine = engine.c_str();
        graphs.library = library.c_str();
        graphs.library_version = version.c_str();
        graphs.user = callbacks_.get();
        graphs.bind = Callbacks::on_bind;
        graphs.enqueue = Callbacks::on_enqueue;
        graphs.message = Callbacks::on_message;
        graphs.cuda_library = driver.c_str();
        graphs.device = device;
        forerun_error error{};
        forerun_status status;
        {
            nb::gil_scoped_release release;
            status = forerun_open_graphs(bundle.c_str(), nullptr, &graphs, &engine_, &error);
        }
        check(status, error);
    }

    Engine(Table target, Table draft, int64_t draft_len, int64_t capacity, int64_t prefill_chunk,
           const std::vector<int64_t> &eos, const std::vector<int64_t> &widths, int64_t lookup_len,
           int64_t lookup_match) {
        const size_t vocab = target.shape(0);
        if (target.shape(1) != vocab || draft.shape(0) != vocab || draft.shape(1) != vocab)
            raise(forerun_status_name(FORERUN_INVALID_ARGUMENT), "both tables must be [vocab_size, vocab_size]");
        forerun_table table{};
        table.struct_size = sizeof table;
        table.vocab_size = static_cast<int64_t>(vocab);
        table.draft_len = draft_len;
        table.capacity = capacity;
        table.prefill_chunk = prefill_chunk;
        table.verify_widths = widths.data();
        table.n_verify_widths = widths.size();
        table.target_logits = target.data();
        table.draft_logits = draft.data();
        table.eos_token_ids = eos.data();
        table.n_eos_token_ids = eos.size();
        table.lookup_len = lookup_len;
        table.lookup_match = lookup_match;
        forerun_error error{};
        check(forerun_open_table(&table, &engine_, &error), error);
    }

    Engine(const Engine &) = delete;
    Engine &operator=(const Engine &) = delete;
    ~Engine() {
        forerun_close(engine_);
    }

    void close() {
        forerun_engine *engine = std::exchange(engine_, nullptr);
        {
            nb::gil_scoped_release release;
            forerun_close(engine);
        }
        callbacks_.reset(); // what they run lives until here
    }

    Facts describe() const {
        Facts facts{};
        facts.raw.struct_size = sizeof facts.raw;
        forerun_error error{};
        check(forerun_describe(open(), &facts.raw, &error), error);
        const forerun_facts &raw = facts.raw;
        facts.name = raw.name;
        facts.target_architecture = raw.target_architecture;
        facts.drafter_family = raw.drafter_family;
        facts.backend = raw.backend;
        facts.backend_version = raw.backend_version;
        facts.verify_widths.assign(raw.verify_widths, raw.verify_widths + raw.n_verify_widths);
        facts.eos_token_ids.assign(raw.eos_token_ids, raw.eos_token_ids + raw.n_eos_token_ids);
        return facts;
    }

    nb::tuple state(size_t index) const {
        forerun_state_info info{};
        info.struct_size = sizeof info;
        forerun_error error{};
        check(forerun_state(open(), index, &info, &error), error);
        return nb::make_tuple(info.name, reinterpret_cast<uintptr_t>(info.input_address),
                              reinterpret_cast<uintptr_t>(info.output_address), info.bytes);
    }

    nb::bytes token_bytes(int64_t token) const {
        const char *bytes = nullptr;
        size_t n_bytes = 0;
        forerun_error error{};
        check(forerun_token_bytes(open(), token, &bytes, &n_bytes, &error), error);
        return nb::bytes(bytes, n_bytes);
    }

    // No costs of rounds: forget those that there were.
    void set_costs(float plain, const std::vector<float> &rounds) {
        forerun_costs costs{};
        costs.struct_size = sizeof costs;
        costs.plain = plain;
        costs.rounds = rounds.data();
        costs.n_rounds = rounds.size();
        forerun_error error{};
        check(forerun_set_costs(open(), rounds.empty() ? nullptr : &costs, &error), error);
    }

    void start(Ids prompt, int64_t max_new_tokens, float temperature, uint64_t seed, const std::string &decoding,
               int64_t draft_len, bool fixed_plan, bool drafter_only) {
        forerun_request request{};
        request.struct_size = sizeof request;
        request.max_new_tokens = max_new_tokens;
        request.temperature = temperature;
        request.seed = seed;
        request.decoding = parse_decoding(decoding);
        request.draft_len = draft_len;
        request.fixed_plan = fixed_plan ? 1 : 0;
        request.drafter_only = drafter_only ? 1 : 0;
        forerun_engine *engine = open();
        forerun_error error{};
        forerun_status status;
        {
            nb::gil_scoped_release release;
            status = forerun_start(engine, prompt.data(), prompt.shape(0), &request, &error);
        }
        check(status, error);
    }

    Round step() {
        Round round{};
        round.raw.struct_size = sizeof round.raw;
        forerun_engine *engine = open();
        forerun_error error{};
        forerun_status status;
        {
            nb::gil_scoped_release release;
            status = forerun_step(engine, &round.raw, &error);
        }
        check(status, error);
        const forerun_round &raw = round.raw;
        round.committed.assign(raw.committed, raw.committed + raw.n_committed);
        round.draft_tokens.assign(raw.draft_tokens, raw.draft_tokens + raw.n_draft_tokens);
        round.draft_confidence.assign(raw.draft_confidence, raw.draft_confidence + raw.n_draft_tokens);
        return round;
    }

  private:
    forerun_engine *open() const {
        if (!engine_)
            raise(forerun_status_name(FORERUN_INVALID_STATE), "the engine is closed; load the bundle again");
        return engine_;
    }

    std::unique_ptr<Callbacks> callbacks_; // of an engine on a GPU
    forerun_engine *engine_ = nullptr;
};

void bind_results(nb::module_ &m) {
    nb::class_<Facts>(m, "Facts")
        .def_ro("name", &Facts::name)
        .def_ro("target_architecture", &Facts::target_architecture)
        .def_ro("drafter_family", &Facts::drafter_family)
        .def_ro("backend", &Facts::backend)
        .def_ro("backend_version", &Facts::backend_version)
        .def_prop_ro("vocab_size", [](const Facts &f) { return f.raw.vocab_size; })
        .def_prop_ro("draft_len", [](const Facts &f) { return f.raw.draft_len; })
        .def_prop_ro("block_size", [](const Facts &f) { return f.raw.block_size; })
        .def_prop_ro("capacity", [](const Facts &f) { return f.raw.capacity; })
        .def_prop_ro("prefill_chunk", [](const Facts &f) { return f.raw.prefill_chunk; })
        .def_prop_ro("verify_widths", [](const Facts &f) { return to_tuple(f.verify_widths); })
        .def_prop_ro("eos_token_ids", [](const Facts &f) { return to_tuple(f.eos_token_ids); })
        .def_prop_ro("bos_token_id",
                     [](const Facts &f) { return f.raw.bos_token_id < 0 ? nb::none() : nb::cast(f.raw.bos_token_id); })
        .def_prop_ro("n_states", [](const Facts &f) { return f.raw.n_states; })
        .def_prop_ro("threads", [](const Facts &f) { return f.raw.threads; })
        .def_prop_ro("has_costs", [](const Facts &f) { return f.raw.has_costs != 0; })
        .def_prop_ro("lookup_len", [](const Facts &f) { return f.raw.lookup_len; })
        .def_prop_ro("lookup_match", [](const Facts &f) { return f.raw.lookup_match; });

    nb::class_<Round>(m, "Round")
        .def_prop_ro("phase", [](const Round &r) { return phase_name(r.raw.phase); })
        .def_prop_ro("finish", [](const Round &r) { return finish_name(r.raw.finish); })
        .def_prop_ro("committed", [](const Round &r) { return to_tuple(r.committed); })
        .def_prop_ro("graph", [](const Round &r) { return Callbacks::graph_name(r.raw.graph); })
        .def_prop_ro("width", [](const Round &r) { return r.raw.width; })
        .def_prop_ro("n_drafted", [](const Round &r) { return r.raw.n_drafted; })
        .def_prop_ro("n_accepted", [](const Round &r) { return r.raw.n_accepted; })
        .def_prop_ro("draft_tokens", [](const Round &r) { return to_tuple(r.draft_tokens); })
        .def_prop_ro("draft_confidence", [](const Round &r) { return to_tuple(r.draft_confidence); })
        .def_prop_ro("position", [](const Round &r) { return r.raw.position; })
        .def_prop_ro("looked_up", [](const Round &r) { return r.raw.looked_up != 0; })
        .def_prop_ro("session_us", [](const Round &r) { return static_cast<double>(r.raw.session_ns) / 1000.0; })
        .def_prop_ro("loop_us", [](const Round &r) { return static_cast<double>(r.raw.loop_ns) / 1000.0; });
}

} // namespace

NB_MODULE(_core, m) {
    m.attr("VERSION") = forerun_version();
    bind_results(m);
    nb::class_<Engine>(m, "Engine")
        .def(nb::init<const std::string &, const std::string &, int32_t, const std::string &, const std::string &,
                      const std::string &, int32_t>(),
             "bundle"_a, "library"_a, "threads"_a, "provider"_a = "", "provider_library"_a = "", "engine"_a = "",
             "device"_a = 0)
        .def(nb::init<const std::string &, const std::string &, const std::string &, const std::string &, nb::object,
                      nb::object, const std::string &, int32_t>(),
             "bundle"_a, "engine"_a, "library"_a, "version"_a, "bind"_a, "enqueue"_a, "driver"_a, "device"_a)
        .def(nb::init<Table, Table, int64_t, int64_t, int64_t, const std::vector<int64_t> &,
                      const std::vector<int64_t> &, int64_t, int64_t>(),
             "target_logits"_a.noconvert(), "draft_logits"_a.noconvert(), "draft_len"_a, "capacity"_a,
             "prefill_chunk"_a, "eos_token_ids"_a, "verify_widths"_a = std::vector<int64_t>(), "lookup_len"_a = 0,
             "lookup_match"_a = 0)
        .def("close", &Engine::close)
        .def("describe", &Engine::describe)
        .def("state", &Engine::state, "index"_a)
        .def("token_bytes", &Engine::token_bytes, "token"_a)
        .def("start", &Engine::start, "prompt"_a.noconvert(), "max_new_tokens"_a, "temperature"_a, "seed"_a,
             "decoding"_a, "draft_len"_a, "fixed_plan"_a = false, "drafter_only"_a = false)
        .def("set_costs", &Engine::set_costs, "plain"_a, "rounds"_a)
        .def("step", &Engine::step);
}
