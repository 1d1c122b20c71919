// Python bindings of load books and choices. No logic here.
//
// The GIL is kept: a choice among 64 takes two or three microseconds, giving the GIL up and taking it again costs as much, and
// while it is kept nobody waits for a book's mutex. The mutex is never held while Python is touched.
#include "index/native/module_choosing.hpp"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "index/native/bind_arrays.hpp"
#include "index/native/bind_numbers.hpp"
#include "index/native/error.hpp"
#include "index/native/loads.hpp"

namespace nb = nanobind;

namespace kvatlas {
namespace {

using Type = ColumnSpan::Type;
constexpr int64_t kRequestTokensMax = std::numeric_limits<uint32_t>::max();
constexpr double kSecondsMax = 1e12;

double seconds_of(nb::handle value, const char* name) { return number_of(value, name, -kSecondsMax, kSecondsMax); }

std::string_view id_of(nb::handle id) {
  Py_ssize_t size = 0;
  const char* text = PyUnicode_Check(id.ptr()) ? PyUnicode_AsUTF8AndSize(id.ptr(), &size) : nullptr;
  if (text == nullptr) {
    PyErr_Clear();
    throw Error(ErrorKind::input, std::string("request_id: expected a str that UTF-8 can encode, got ") + Py_TYPE(id.ptr())->tp_name);
  }
  return {text, static_cast<size_t>(size)};
}

template <class T, class Row, class Get>
nb::object column(Dtype dtype, const Row* rows, size_t n, Get get) {
  const NewArray out = new_array(dtype, n);
  for (size_t i = 0; i < n; ++i) static_cast<T*>(out.data)[i] = get(rows[i]);
  return out.array;
}

template <class Get>
nb::object column_of(const Decision& decision, Get get) {
  return column<float>(Dtype::float32, decision.lines.get(), decision.n_lines, get);
}

void make_candidates(Candidates* self, nb::handle numbers, nb::handle slots, nb::handle discounts, nb::handle limits,
                     nb::handle offsets, nb::handle requests_max, nb::handle rates) {
  const ColumnSpan number_span(numbers, "numbers", Type::uint32), slot_span(slots, "slots", Type::uint32),
      discount_span(discounts, "discounts", Type::float32), limit_span(limits, "limits", Type::float64),
      offset_span(offsets, "offsets", Type::float64), most_span(requests_max, "requests_max", Type::uint32),
      rate_span(rates, "rates", Type::float64);
  new (self) Candidates(CandidateColumns{number_span.of<uint32_t>(), slot_span.of<uint32_t>(), discount_span.of<float>(),
                                         limit_span.of<double>(), offset_span.of<double>(), most_span.of<uint32_t>(), rate_span.of<double>()});
}

PolicyKind kind_of(const std::string& name) {
  constexpr const char* kNames[] = {"weighted", "longest_prefix", "least_loaded", "random", "round_robin"};
  for (size_t i = 0; i < std::size(kNames); ++i)
    if (name == kNames[i]) return static_cast<PolicyKind>(i);
  throw Error(ErrorKind::input, "kind: expected weighted, longest_prefix, least_loaded, random or round_robin, got '" + name + "'");
}

void make_terms(Terms* self, const std::string& kind, double overlap, double prefill, double decode, double temperature,
                nb::handle tier_costs, int64_t hot_requests, double session_bonus_tokens, bool reserves_prefill, bool reserves_decode) {
  Terms terms{.kind = kind_of(kind), .overlap = overlap, .prefill = prefill, .decode = decode, .temperature = temperature,
              .session_bonus_tokens = session_bonus_tokens, .reserves_prefill = reserves_prefill, .reserves_decode = reserves_decode};
  if (hot_requests < 0 || hot_requests > std::numeric_limits<uint32_t>::max())
    throw Error(ErrorKind::input, "hot_requests: expected 0 to 4294967295, got " + std::to_string(hot_requests));
  terms.hot_requests = static_cast<uint32_t>(hot_requests);
  if (!tier_costs.is_none()) {
    if (nb::len(tier_costs) != kTierColumns) throw Error(ErrorKind::input, "tier_costs: expected 5, got " + std::to_string(nb::len(tier_costs)));
    for (uint32_t i = 0; i < kTierColumns; ++i) terms.tier_costs[i] = number_of(tier_costs[i], "tier_costs", 0, 1e9);
  }
  terms.settle();
  new (self) Terms(terms);
}

// The arguments that `choose` and `pick` share. The request borrows from it.
struct Asked {
  ColumnSpan workers, blocks, tier_blocks, hints;
  std::vector<uint32_t> partial_rows;
  Request request;

  Asked(const Candidates& candidates, nb::handle now_s, nb::handle prompt_tokens, nb::handle output_tokens, nb::handle workers_,
        nb::handle blocks_, nb::handle tier_blocks_, nb::handle partials, nb::handle block_size, nb::handle hints_, int64_t bonus_row, uint64_t seed)
      : workers(workers_, "workers", Type::uint32), blocks(blocks_, "blocks", Type::uint32),
        tier_blocks(tier_blocks_, "tier_blocks", Type::uint32, kTierColumns), hints(hints_, "hints", Type::float32) {
    for (nb::handle row : partials) partial_rows.push_back(static_cast<uint32_t>(count_of(row, "partial_rows", kRequestTokensMax)));
    if (bonus_row < -1 || bonus_row >= static_cast<int64_t>(candidates.size()))
      throw Error(ErrorKind::input, "bonus_row: expected -1 to " + std::to_string(candidates.size()) + " - 1, got " + std::to_string(bonus_row));
    request.now_s = seconds_of(now_s, "now_s");
    request.prompt_tokens = static_cast<uint64_t>(count_of(prompt_tokens, "prompt_tokens", kRequestTokensMax));
    request.output_tokens = static_cast<uint64_t>(count_of(output_tokens, "output_tokens", kRequestTokensMax));
    request.matches = {workers.of<uint32_t>(), blocks.of<uint32_t>(), tier_blocks.of<uint32_t>(), partial_rows,
                       static_cast<uint32_t>(count_of(block_size, "block_size", kRequestTokensMax))};
    request.hints = hints.of<float>();
    request.bonus_row = bonus_row < 0 ? kNoRow : static_cast<uint32_t>(bonus_row);
    request.seed = seed;
  }
};

Decision choose(LoadBook& book, const Candidates& candidates, const Terms& terms, nb::handle now_s, nb::handle request_id,
                nb::handle prompt_tokens, nb::handle output_tokens, nb::handle workers, nb::handle blocks, nb::handle tier_blocks,
                nb::handle partial_rows, nb::handle block_size, nb::handle hints, int64_t bonus_row, bool reserve, uint64_t seed) {
  const Asked asked(candidates, now_s, prompt_tokens, output_tokens, workers, blocks, tier_blocks, partial_rows, block_size, hints, bonus_row, seed);
  return book.choose(candidates, terms, asked.request, {}, reserve ? id_of(request_id) : std::string_view{});
}

Decision pick(LoadBook& book, const Candidates& candidates, nb::handle costs, nb::handle now_s, nb::handle request_id,
              nb::handle prompt_tokens, nb::handle output_tokens, nb::handle workers, nb::handle blocks, nb::handle tier_blocks,
              nb::handle partial_rows, nb::handle block_size, nb::handle hints, int64_t bonus_row, bool reserve, uint64_t seed, const Terms& terms) {
  const ColumnSpan cost_span(costs, "costs", Type::float64);
  const Asked asked(candidates, now_s, prompt_tokens, output_tokens, workers, blocks, tier_blocks, partial_rows, block_size, hints, bonus_row, seed);
  return book.choose(candidates, terms, asked.request, cost_span.of<double>(), reserve ? id_of(request_id) : std::string_view{});
}

// Columns of what workers have to do, as numpy arrays.
struct Loads {
  nb::object prefill_tokens, decode_tokens, requests, prefill_rate, load_back_rates, accuracy;
};

nb::object load_back_rates(const LoadBook& book, const Candidates& candidates) {
  const std::vector<double> rates = book.load_back_rates(candidates);
  const NewArray out = new_array(Dtype::float64, candidates.size(), kLoadTiers);
  std::copy(rates.begin(), rates.end(), static_cast<double*>(out.data));
  return out.array;
}

// Without a time: what of a prefill at the front has been done is not known.
Loads snapshot(const LoadBook& book, const Candidates& candidates, nb::handle now_s) {
  const std::vector<PricedRow> rows = book.look(candidates, now_s.is_none() ? -kSecondsMax : seconds_of(now_s, "now_s"));
  const std::vector<double> shares = book.accuracies(candidates);
  const PricedRow* first = rows.data();
  return {column<double>(Dtype::float64, first, rows.size(), [](const PricedRow& row) { return row.prefill; }),
          column<double>(Dtype::float64, first, rows.size(), [](const PricedRow& row) { return row.decode; }),
          column<uint32_t>(Dtype::uint32, first, rows.size(), [](const PricedRow& row) { return row.requests; }),
          column<double>(Dtype::float64, first, rows.size(), [](const PricedRow& row) { return row.measured_weight > 0 ? 1 / row.measured_seconds_per_token : 0; }),
          load_back_rates(book, candidates),
          column<double>(Dtype::float64, shares.data(), shares.size(), [](double share) { return share; })};
}

bool reserve(LoadBook& book, nb::handle slot, nb::handle request_id, nb::handle prefill_tokens, nb::handle prompt_tokens,
             nb::handle output_tokens, nb::handle cached_tokens, nb::handle loaded_tokens, nb::handle now_s) {
  Reservation r;
  r.request_id = id_of(request_id);
  r.slot = static_cast<uint32_t>(count_of(slot, "slot", kRequestTokensMax));
  r.prefill_tokens = count_of(prefill_tokens, "prefill_tokens", kRequestTokensMax);
  r.prompt_tokens = count_of(prompt_tokens, "prompt_tokens", kRequestTokensMax);
  r.output_tokens = count_of(output_tokens, "output_tokens", kRequestTokensMax);
  r.cached_tokens = count_of(cached_tokens, "cached_tokens", kRequestTokensMax);
  r.decode_tokens = r.prompt_tokens + r.output_tokens;
  if (!loaded_tokens.is_none()) {
    if (nb::len(loaded_tokens) != kLoadTiers) throw Error(ErrorKind::input, "loaded_tokens: expected 3, got " + std::to_string(nb::len(loaded_tokens)));
    for (uint32_t tier = 0; tier < kLoadTiers; ++tier) r.loaded_tokens[tier] = count_of(loaded_tokens[tier], "loaded_tokens", kRequestTokensMax);
    r.computed_tokens = std::max<int64_t>(r.prompt_tokens - r.cached_tokens, 0);
    r.is_sure = true;
  }
  return book.reserve(std::move(r), seconds_of(now_s, "now_s"));
}

nb::tuple columns_of(const std::vector<SlotSums>& sums) {
  const SlotSums* first = sums.data();
  return nb::make_tuple(column<uint32_t>(Dtype::uint32, first, sums.size(), [](const SlotSums& s) { return s.slot; }),
                        column<double>(Dtype::float64, first, sums.size(), [](const SlotSums& s) { return static_cast<double>(s.sums.prefill); }),
                        column<double>(Dtype::float64, first, sums.size(), [](const SlotSums& s) { return static_cast<double>(s.sums.decode); }),
                        column<uint32_t>(Dtype::uint32, first, sums.size(), [](const SlotSums& s) { return static_cast<uint32_t>(s.sums.requests); }));
}

int64_t told_tokens(double tokens, const char* name, size_t at) {
  if (!(tokens >= 0 && tokens <= kTokensMax))
    throw Error(ErrorKind::input, std::string(name) + "[" + std::to_string(at) + "]: expected 0 to 1e12 tokens, got " + std::to_string(tokens));
  return std::llround(tokens);
}

void set_remote(LoadBook& book, uint64_t router, nb::handle slots, nb::handle prefill, nb::handle decode, nb::handle requests, bool whole) {
  const ColumnSpan slot_span(slots, "slots", Type::uint32), prefill_span(prefill, "prefill", Type::float64),
      decode_span(decode, "decode", Type::float64), request_span(requests, "requests", Type::uint32);
  const auto numbers = slot_span.of<uint32_t>(), counts = request_span.of<uint32_t>();
  const auto prefills = prefill_span.of<double>(), decodes = decode_span.of<double>();
  const size_t n = numbers.size();
  if (prefills.size() != n || decodes.size() != n || counts.size() != n)
    throw Error(ErrorKind::input, "prefill, decode, requests: expected " + std::to_string(n) + " rows as slots has, got " + std::to_string(prefills.size()) + ", " + std::to_string(decodes.size()) + " and " + std::to_string(counts.size()));
  std::vector<SlotSums> told;
  for (size_t i = 0; i < n; ++i)
    told.push_back({numbers[i], {told_tokens(prefills[i], "prefill", i), told_tokens(decodes[i], "decode", i), counts[i]}});
  book.set_remote(router, told, whole);
}

std::optional<int64_t> tokens_or_none(nb::handle value, const char* name) {
  if (value.is_none()) return std::nullopt;
  return count_of(value, name, kRequestTokensMax);
}

nb::dict statistics(const LoadBook& book) {
  const BookStatistics s = book.statistics();
  nb::dict out;
  out["reservations"] = s.reservations;
  out["slots"] = s.slots;
  out["routers"] = s.routers;
  out["choices"] = s.choices;
  out["reserved"] = s.reserved;
  out["saturated"] = s.saturated;
  out["unreserved_full"] = s.unreserved_full;
  out["unreserved_duplicates"] = s.unreserved_duplicates;
  out["prefilled"] = s.prefilled;
  out["completed"] = s.completed;
  out["failed"] = s.failed;
  out["expired"] = s.expired;
  out["forgotten"] = s.forgotten;
  out["learned_prefills"] = s.learned_prefills;
  out["learned_loads"] = s.learned_loads;
  out["unknown"] = s.unknown;
  out["refused_routers"] = s.refused_routers;
  return out;
}

void bind_decisions(nb::module_& m) {
  nb::class_<Decision>(m, "Decision")
      .def_prop_ro("row", [](const Decision& d) { return d.row == kNoRow ? -1 : static_cast<int64_t>(d.row); })
      .def_prop_ro("slot", [](const Decision& d) { return d.row == kNoRow ? -1 : static_cast<int64_t>(d.slot); })
      .def_ro("cost", &Decision::cost)
      .def_ro("cached_tokens", &Decision::cached_tokens)
      .def_ro("index_tokens", &Decision::index_tokens)
      .def_ro("is_reserved", &Decision::is_reserved)
      .def_ro("retry_after_s", &Decision::retry_after_s)
      .def_ro("in_seconds", &Decision::in_seconds)
      .def_prop_ro("costs", [](const Decision& d) { return column_of(d, [](const Decision::Line& line) { return line.cost; }); })
      .def_prop_ro("credits", [](const Decision& d) { return column_of(d, [](const Decision::Line& line) { return line.credit; }); })
      .def_prop_ro("prefill_tokens", [](const Decision& d) { return column_of(d, [](const Decision::Line& line) { return line.prefill; }); })
      .def_prop_ro("decode_tokens", [](const Decision& d) { return column_of(d, [](const Decision::Line& line) { return line.decode; }); })
      .def_prop_ro("seconds_per_token", [](const Decision& d) { return column_of(d, [](const Decision::Line& line) { return line.seconds_per_token; }); })
      .def_prop_ro("requests", [](const Decision& d) { return column<uint32_t>(Dtype::uint32, d.lines.get(), d.n_lines, [](const Decision::Line& line) { return line.requests; }); })
      .def_prop_ro("states", [](const Decision& d) { return column<uint32_t>(Dtype::uint32, d.lines.get(), d.n_lines, [](const Decision::Line& line) { return static_cast<uint32_t>(line.state); }); });

  nb::class_<Ended>(m, "Ended")
      .def_ro("request_id", &Ended::request_id)
      .def_ro("slot", &Ended::slot)
      .def_ro("prompt_tokens", &Ended::prompt_tokens)
      .def_ro("prefill_tokens", &Ended::prefill_tokens)
      .def_ro("cached_tokens", &Ended::cached_tokens)
      .def_ro("seconds", &Ended::seconds)
      .def_ro("prefill_seconds", &Ended::prefill_seconds)
      .def_ro("is_by_index", &Ended::is_by_index);

  nb::class_<Loads>(m, "Loads")
      .def_ro("prefill_tokens", &Loads::prefill_tokens)
      .def_ro("decode_tokens", &Loads::decode_tokens)
      .def_ro("requests", &Loads::requests)
      .def_ro("prefill_rate", &Loads::prefill_rate)
      .def_ro("load_back_rates", &Loads::load_back_rates)
      .def_ro("accuracy", &Loads::accuracy);
}

}  // namespace

void bind_choosing(nb::module_& m) {
  nb::class_<Candidates>(m, "Candidates")
      .def("__init__", &make_candidates, nb::arg("numbers"), nb::arg("slots"), nb::arg("discounts"), nb::arg("limits").none() = nb::none(),
           nb::arg("offsets").none() = nb::none(), nb::arg("requests_max").none() = nb::none(), nb::arg("rates").none() = nb::none())
      .def("__len__", &Candidates::size);
  nb::class_<Terms>(m, "Terms")
      .def("__init__", &make_terms, nb::kw_only(), nb::arg("kind") = "weighted", nb::arg("overlap") = 1.0, nb::arg("prefill") = 1.0,
           nb::arg("decode") = 0.02, nb::arg("temperature") = 0.0, nb::arg("tier_costs").none() = nb::none(), nb::arg("hot_requests") = 0,
           nb::arg("session_bonus_tokens") = 0.0, nb::arg("reserves_prefill") = true, nb::arg("reserves_decode") = true);
  bind_decisions(m);

  const nb::kw_only kw;
  nb::class_<LoadBook>(m, "LoadBook")
      .def("__init__", [](LoadBook* self, nb::handle most) { new (self) LoadBook(static_cast<uint32_t>(count_of(most, "reservations_max", 1 << 24))); }, nb::arg("reservations_max"))
      .def("slot", [](LoadBook& book, nb::handle pod, nb::handle rank) { return book.slot(id_of(pod), static_cast<uint32_t>(count_of(rank, "rank", 1 << 20))); }, nb::arg("pod"), nb::arg("rank"))
      .def("name", [](const LoadBook& book, nb::handle slot) { return book.name(static_cast<uint32_t>(count_of(slot, "slot", kRequestTokensMax))); }, nb::arg("slot"))
      .def("forget", [](LoadBook& book, nb::handle pod) { return book.forget(id_of(pod)); }, nb::arg("pod"))
      .def("choose", &choose, nb::arg("candidates"), nb::arg("terms"), kw, nb::arg("now_s"), nb::arg("request_id"), nb::arg("prompt_tokens"),
           nb::arg("output_tokens"), nb::arg("workers"), nb::arg("blocks"), nb::arg("tier_blocks"), nb::arg("partial_rows"), nb::arg("block_size"),
           nb::arg("hints").none() = nb::none(), nb::arg("bonus_row") = -1, nb::arg("reserve") = true, nb::arg("seed") = 0)
      .def("pick", &pick, nb::arg("candidates"), nb::arg("costs"), kw, nb::arg("now_s"), nb::arg("request_id"), nb::arg("prompt_tokens"),
           nb::arg("output_tokens"), nb::arg("workers"), nb::arg("blocks"), nb::arg("tier_blocks"), nb::arg("partial_rows"), nb::arg("block_size"),
           nb::arg("hints").none() = nb::none(), nb::arg("bonus_row") = -1, nb::arg("reserve") = true, nb::arg("seed") = 0, nb::arg("terms") = Terms{})
      .def("snapshot", &snapshot, nb::arg("candidates"), nb::arg("now_s").none() = nb::none())
      .def("reserve", &reserve, nb::arg("slot"), kw, nb::arg("request_id"), nb::arg("prefill_tokens"), nb::arg("prompt_tokens"),
           nb::arg("output_tokens"), nb::arg("cached_tokens") = 0, nb::arg("loaded_tokens").none() = nb::none(), nb::arg("now_s"))
      .def("prefill_done", [](LoadBook& book, nb::handle id, nb::handle now_s) { return book.prefill_done(id_of(id), seconds_of(now_s, "now_s")); }, nb::arg("request_id"), nb::arg("now_s"))
      .def("produced", [](LoadBook& book, nb::handle id, nb::handle tokens, nb::handle now_s) { return book.produced(id_of(id), count_of(tokens, "tokens", kRequestTokensMax), seconds_of(now_s, "now_s")); },
           nb::arg("request_id"), nb::arg("tokens"), nb::arg("now_s"))
      .def("completed", [](LoadBook& book, nb::handle id, nb::handle now_s, nb::handle cached) { return book.completed(id_of(id), seconds_of(now_s, "now_s"), tokens_or_none(cached, "cached_tokens")); },
           nb::arg("request_id"), nb::arg("now_s"), kw, nb::arg("cached_tokens").none() = nb::none())
      .def("failed", [](LoadBook& book, nb::handle id, nb::handle now_s) { return book.failed(id_of(id), seconds_of(now_s, "now_s")); }, nb::arg("request_id"), nb::arg("now_s"))
      .def("expire", [](LoadBook& book, nb::handle now_s, nb::handle silence_s) { return book.expire(seconds_of(now_s, "now_s"), number_of(silence_s, "silence_s", 0, kSecondsMax)); }, nb::arg("now_s"), nb::arg("silence_s"))
      .def("changed", [](LoadBook& book) { return columns_of(book.changed()); })
      .def("own", [](const LoadBook& book) { return columns_of(book.own()); })
      .def("set_remote", &set_remote, nb::arg("router"), nb::arg("slots"), nb::arg("prefill"), nb::arg("decode"), nb::arg("requests"), nb::arg("whole"))
      .def("drop_remote", &LoadBook::drop_remote, nb::arg("router"))
      .def("statistics", &statistics);
}

}  // namespace kvatlas
