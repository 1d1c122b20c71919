// Python bindings of tokenize/native; _native.pyi describes them. No logic here.
#include <nanobind/nanobind.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/unique_ptr.h>

#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "index/native/bind_arrays.hpp"
#include "index/native/error.hpp"
#include "tokenize/native/bind_text.hpp"
#include "tokenize/native/cutter.hpp"
#include "tokenize/native/plan.hpp"
#include "tokenize/native/segment_memo.hpp"

namespace nb = nanobind;
using namespace kvatlas;

namespace {

// Work of less than about 50 us keeps the GIL. Who releases it asks for it again afterwards, and waits
// for up to 5 ms (sys.getswitchinterval) where another thread computes in Python.
constexpr size_t kUnlockBytes = 256 << 10;

template <class Work>
void run(size_t bytes, const Work& work) {
  if (bytes < kUnlockBytes) return work();
  nb::gil_scoped_release unlocked;
  work();
}

void make_cutter(Cutter* self, nb::sequence added_tokens, uint32_t line_rule, size_t piece_bytes, uint32_t word_rule) {
  if (line_rule > static_cast<uint32_t>(LineRule::single_lines))
    throw Error(ErrorKind::input, "line_rule: expected 0 to 3, got " + std::to_string(line_rule));
  if (word_rule > static_cast<uint32_t>(WordRule::by_case))
    throw Error(ErrorKind::input, "word_rule: expected 0 to 3, got " + std::to_string(word_rule));
  std::vector<Cutter::AddedToken> tokens;
  for (nb::handle item : added_tokens) {
    const std::string where = "added_tokens[" + std::to_string(tokens.size()) + "]";
    uint32_t id = 0;
    if (!nb::isinstance<nb::tuple>(item) || nb::len(item) != 2 || !nb::try_cast(item[1], id))
      throw Error(ErrorKind::input, where + ": expected (content, id from 0 to 4294967295)");
    Utf8Text content(item[0], where);
    content.encode();
    tokens.emplace_back(content.utf8(), id);
  }
  new (self) Cutter(std::move(tokens), static_cast<LineRule>(line_rule), piece_bytes, static_cast<WordRule>(word_rule));
}

// A plan with the text and the memo that it needs.
class BoundPlan {
 public:
  BoundPlan(std::shared_ptr<SegmentMemo> memo, const Cutter& cutter, nb::handle text)
      : memo_(std::move(memo)), text_(text, "text") {
    run(text_.n_bytes(), [&] {
      text_.encode();
      plan_.emplace(*memo_, cutter, text_.utf8());
    });
  }

  size_t n_pieces() const { return plan_->n_pieces(); }
  size_t n_missing() const { return plan_->missing().size(); }

  nb::list missing() const {
    nb::list out;
    for (const Plan::Missing& one : plan_->missing()) out.append(text_.slice(one.begin, one.end));
    return out;
  }

  nb::object ids(nb::sequence encoded) {
    if (is_finished_.exchange(true)) throw Error(ErrorKind::input, "ids: expected one call, got a second one");
    try {
      return finish(encoded);
    } catch (...) {
      is_finished_ = false;
      throw;
    }
  }

 private:
  nb::object finish(const nb::sequence& encoded) {
    if (nb::len(encoded) != n_missing())
      throw Error(ErrorKind::input, "encoded: expected " + std::to_string(n_missing()) + ", one for each missing text, got " + std::to_string(nb::len(encoded)));
    std::vector<std::unique_ptr<TokenSpan>> spans;
    std::vector<Plan::Ids> ids;
    for (nb::handle one : encoded) {
      spans.push_back(span_of(one, spans.size()));
      ids.push_back({spans.back()->data(), spans.back()->size()});
    }
    if (ids.size() != n_missing()) throw Error(ErrorKind::input, "encoded: expected a sequence that does not change");
    const size_t n_tokens = plan_->n_tokens(ids);
    const NewArray out = new_array(Dtype::uint32, n_tokens);
    run(n_tokens * sizeof(uint32_t) + text_.utf8().size(), [&] { plan_->finish(*memo_, text_.utf8(), ids, static_cast<uint32_t*>(out.data)); });
    return out.array;
  }

  static std::unique_ptr<TokenSpan> span_of(nb::handle ids, size_t at) {
    try {
      return std::make_unique<TokenSpan>(ids);
    } catch (const Error& error) {
      throw Error(error.kind(), "encoded[" + std::to_string(at) + "]: " + error.what());
    }
  }

  std::shared_ptr<SegmentMemo> memo_;
  Utf8Text text_;
  std::optional<Plan> plan_;
  std::atomic<bool> is_finished_{false};
};

}  // namespace

NB_MODULE(_native, m) {
  // Threads that still wait when the interpreter ends hold what they wait for: no leak of a program.
  nb::set_leak_warnings(false);
  nb::module_::import_("kvatlas.index._native");  // what turns Error into exceptions

  m.attr("NO_LINES") = static_cast<int>(LineRule::none);
  m.attr("LINES_BEFORE_TEXT") = static_cast<int>(LineRule::before_text);
  m.attr("LINES_BEFORE_TEXT_NOT_SLASH") = static_cast<int>(LineRule::before_text_not_slash);
  m.attr("SINGLE_LINES") = static_cast<int>(LineRule::single_lines);

  m.attr("NO_WORDS") = static_cast<int>(WordRule::none);
  m.attr("WORDS_ONE_DIGIT") = static_cast<int>(WordRule::one_digit);
  m.attr("WORDS_THREE_DIGITS") = static_cast<int>(WordRule::three_digits);
  m.attr("WORDS_BY_CASE") = static_cast<int>(WordRule::by_case);

  nb::class_<Cutter>(m, "Cutter")
      .def("__init__", &make_cutter, nb::arg("added_tokens"), nb::arg("line_rule"), nb::arg("piece_bytes"),
           nb::arg("word_rule") = 0);

  nb::class_<MemoStatistics>(m, "MemoStatistics")
      .def_ro("pieces", &MemoStatistics::pieces)
      .def_ro("bytes", &MemoStatistics::bytes)
      .def_ro("tokens", &MemoStatistics::tokens)
      .def_ro("bytes_max", &MemoStatistics::bytes_max)
      .def_ro("hits", &MemoStatistics::hits)
      .def_ro("misses", &MemoStatistics::misses)
      .def_ro("hit_bytes", &MemoStatistics::hit_bytes)
      .def_ro("missed_bytes", &MemoStatistics::missed_bytes)
      .def_ro("evicted", &MemoStatistics::evicted)
      .def_ro("refused", &MemoStatistics::refused);

  nb::class_<BoundPlan>(m, "Plan")
      .def_prop_ro("n_pieces", &BoundPlan::n_pieces)
      .def_prop_ro("n_missing", &BoundPlan::n_missing)
      .def("missing", &BoundPlan::missing)
      .def("ids", &BoundPlan::ids, nb::arg("encoded"));

  nb::class_<SegmentMemo>(m, "SegmentMemo")
      .def(nb::init<size_t, uint64_t>(), nb::arg("bytes_max"), nb::arg("hash_seed"))
      .def("plan",
           [](std::shared_ptr<SegmentMemo> memo, const Cutter& cutter, nb::handle text) {
             return std::make_unique<BoundPlan>(std::move(memo), cutter, text);
           },
           nb::arg("cutter"), nb::arg("text").none())
      .def("clear", &SegmentMemo::clear, nb::call_guard<nb::gil_scoped_release>())
      .def("statistics", &SegmentMemo::statistics);
}
